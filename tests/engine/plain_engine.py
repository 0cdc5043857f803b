"""The engine written down again in plain Python, slowly, to test the compiled one."""

import numpy as np


class PlainEngine:
    """Continuous batching of (arrival, prompt, output) requests, one dictionary a request."""

    def __init__(self, requests, *, time_of, settings):
        self.requests, self.time_of, self.settings = requests, time_of, settings
        self.state = [
            {"computed": 0, "generated": 0, "first": np.nan, "finish": np.nan, "left": np.nan}
            for _ in requests
        ]
        self.waiting, self.running, self.log = list(range(len(requests))), [], []
        self.now = 0.0

    def blocks(self, i, more=0):
        return -(-(self.state[i]["computed"] + more) // self.settings.block_size)

    def used(self, new, but=None):
        return sum(self.blocks(j, new.get(j, 0)) for j in self.running if j != but)

    def rest(self, i):
        return self.requests[i][1] + self.state[i]["generated"] - self.state[i]["computed"]

    def chunk(self, i, left):
        threshold = self.settings.long_prefill_token_threshold
        return min(self.rest(i), left, threshold or left)

    def leave(self):
        """Who has never run and waited too long is gone."""
        patience = self.settings.patience_ms
        for i in list(self.waiting):
            if patience is None:
                continue
            fresh = self.state[i]["generated"] == 0
            if fresh and self.requests[i][0] + patience < self.now:
                self.state[i]["left"] = self.requests[i][0] + patience
                self.waiting.remove(i)

    def serve_running(self, new, left):
        """Tokens for the requests that run; whether one had to give way."""
        preempted = False
        for i in list(self.running):
            if i not in self.running:
                continue
            want = self.chunk(i, left)
            while self.used(new, but=i) + self.blocks(i, want) > self.settings.capacity_blocks:
                victim = self.running.pop()
                self.state[victim]["computed"] = 0
                self.waiting.insert(0, victim)
                preempted = True
                if victim == i:
                    break
            if i in self.running:
                new[i] = want
                left -= want
        return left, preempted

    def admit(self, new, left):
        budget = self.settings.max_num_batched_tokens
        while self.waiting and len(self.running) < self.settings.max_num_seqs and left > 0:
            i = self.waiting[0]
            want = self.chunk(i, left) if self.settings.chunked_prefill else self.rest(i)
            too_early = self.requests[i][0] > self.now
            if too_early or (want > left and left < budget):
                break
            if self.used(new) + self.blocks(i, want) > self.settings.capacity_blocks:
                break
            self.waiting.pop(0)
            self.running.append(i)
            new[i] = want
            left -= want

    def schedule(self):
        new, budget = {}, self.settings.max_num_batched_tokens
        if not self.settings.mixed_steps:
            self.admit(new, budget)
            if not new:
                self.serve_running(new, budget)
            return {i: new.get(i, 0) for i in self.running}
        left, preempted = self.serve_running(new, budget)
        if not preempted:
            self.admit(new, left)
        return new

    def emit(self, new):
        for i in list(self.running):
            one = self.state[i]
            one["computed"] += new[i]
            if one["computed"] == self.requests[i][1] + one["generated"]:
                one["generated"] += 1
                if one["generated"] == 1:
                    one["first"] = self.now
                if one["generated"] == self.requests[i][2]:
                    one["finish"] = self.now
                    self.running.remove(i)

    def serve(self):
        while self.waiting or self.running:
            if not self.running:
                self.now = max(self.now, min(self.requests[i][0] for i in self.waiting))
            self.leave()
            new = self.schedule()
            batch = [i for i in self.running if new[i] > 0]
            if not batch:
                continue
            positions = sum(self.state[i]["computed"] + new[i] for i in batch)
            size = len(batch), sum(new[i] for i in batch), positions
            took = self.time_of(*size)
            self.log.append((self.now, *size, took))
            self.now += took
            self.emit(new)
        return {name: np.array([one[name] for one in self.state]) for name in self.state[0]}
