"""The engine written down again in plain Python, slowly, to test the compiled one."""

import numpy as np


class PlainEngine:
    """Continuous batching of (arrival, prompt, output) requests, one dictionary a request."""

    def __init__(self, requests, *, time_of, settings, fits=None):
        self.requests, self.time_of, self.settings = requests, time_of, settings
        self.fits = fits
        self.state = [
            {"computed": 0, "generated": 0, "first": np.nan, "finish": np.nan, "left": np.nan}
            for _ in requests
        ]
        self.waiting, self.running, self.log = list(range(len(requests))), [], []
        self.now, self.since, self.served = 0.0, 0, [0] * len(requests)
        self.forced, self.preempted = False, False
        self.judged = []

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

    def holds(self, new, i, want):
        return self.used(new, but=i) + self.blocks(i, want) <= self.settings.capacity_blocks

    def preempt(self):
        victim = self.running.pop()
        self.state[victim]["computed"] = 0
        self.waiting.insert(0, victim)
        self.preempted = True
        return victim

    def serve_running(self, new, left):
        """Tokens for the requests that run; whether one had to give way."""
        preempted = False
        for i in list(self.running):
            if i not in self.running:
                continue
            want = self.chunk(i, left)
            while not self.holds(new, i, want):
                preempted = True
                if self.preempt() == i:
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
            if not self.holds(new, i, want):
                break
            self.waiting.pop(0)
            self.running.append(i)
            new[i] = want
            left -= want

    def schedule(self):
        new, budget = {}, self.settings.max_num_batched_tokens
        if self.settings.sla_aware:
            self.within(new)
            for i in new:
                self.served[i] = len(self.log) + 1
            return {i: new.get(i, 0) for i in self.running}
        if not self.settings.mixed_steps:
            if self.prompts_now():
                self.admit(new, budget)
            if new:
                self.since = 0
            else:
                self.serve_running(new, budget)
                self.since += 1
            return {i: new.get(i, 0) for i in self.running}
        left, preempted = self.serve_running(new, budget)
        if not preempted:
            self.admit(new, left)
        return new

    def prompts_now(self):
        """Whether a step of prompts alone may come."""
        order = self.settings.prefill_order
        if order == "first" or not self.running:
            return True
        if order == "last":
            return self.since == 0
        wait = sum(self.requests[i][0] <= self.now for i in self.waiting)
        enough = wait >= np.floor(self.settings.waiting_served_ratio * len(self.running))
        return self.since >= self.settings.max_waiting_steps or (enough and self.since > 0)

    # The SLA-aware scheduler

    def size(self, new):
        """B, S and C of a step."""
        positions = sum(self.state[i]["computed"] + n for i, n in new.items())
        return len(new), sum(new.values()), positions

    def decodes(self, i):
        return self.rest(i) == 1 and self.state[i]["generated"] > 0

    def chosen_decodes(self):
        """All decodes if they fit, else those served least recently as long as they do."""
        self.forced = False
        everyone = {i: 1 for i in self.running if self.decodes(i)}
        if not everyone or self.fits(*self.size(everyone)):
            return everyone
        chosen = {}
        for i in sorted(everyone, key=lambda i: (self.served[i], self.running.index(i))):
            if self.fits(*self.size({**chosen, i: 1})):
                chosen[i] = 1
            elif not chosen:
                self.forced = True
                return {i: 1}
        return chosen

    def hold(self, chosen):
        """Those of the chosen who have blocks; the last admitted give way."""
        held = {}
        for i in list(self.running):
            if i not in chosen or i not in self.running:
                continue
            while not self.holds(held, i, 1):
                if self.preempt() == i:
                    break
            if i in self.running:
                held[i] = 1
        return held

    def fitting_chunk(self, new, i):
        """The largest chunk that fits; alone, a request computes all it may."""
        left = self.settings.max_num_batched_tokens - sum(new.values())
        most = self.chunk(i, left)
        for n in range(most, 0, -1):
            if self.fits(*self.size({**new, i: n})):
                return n
        if not new:
            self.forced = True
            return most
        return 0

    def within(self, new):
        self.preempted = False
        while (chosen := self.chosen_decodes()) and not (held := self.hold(chosen)):
            pass
        if chosen:
            new |= held
        if self.forced:
            return
        for i in list(self.running):
            if i in new or self.decodes(i) or i not in self.running:
                continue
            want = self.fitting_chunk(new, i)
            while not new and not self.holds(new, i, want):
                self.preempt()
            if want == 0 or not self.holds(new, i, want):
                return
            new[i] = want
            if self.forced:
                return
        if not self.preempted:
            self.admit_within(new)

    def expected(self, i):
        output = self.settings.expected_output_tokens
        if output is None:
            ended = [
                r[2] for r, s in zip(self.requests, self.state, strict=True) if s["finish"] > 0
            ]
            output = np.mean(ended) if ended else 0.0
        return self.requests[i][1] + max(output, self.state[i]["generated"])

    def admit_within(self, new):
        while self.waiting and len(self.running) < self.settings.max_num_seqs and not self.forced:
            i = self.waiting[0]
            if self.requests[i][0] > self.now:
                return
            promised = sum(self.expected(j) for j in [*self.running, i])
            batch = len(self.running) + 1
            if batch > 1 and not self.fits(batch, batch, promised):
                return
            want = self.fitting_chunk(new, i)
            if want == 0 or not self.holds(new, i, want):
                return
            self.waiting.pop(0)
            self.running.append(i)
            new[i] = want

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
            self.judged.append((any(self.state[i]["generated"] for i in batch), self.forced))
            self.now += took
            self.emit(new)
        return {name: np.array([one[name] for one in self.state]) for name in self.state[0]}
