"""The engine written down again in plain Python, slowly, to test the compiled one."""

import numpy as np


def serve_by_hand(requests, *, time_of, max_num_seqs, budget, capacity, block=1, chunked=True):
    """Continuous batching of (arrival, prompt, output) requests; gives first and finish times."""
    n = len(requests)
    state = [{"computed": 0, "generated": 0, "first": np.nan, "finish": np.nan} for _ in range(n)]
    waiting, running, now, log = list(range(n)), [], 0.0, []

    def blocks(i, more=0):
        return -(-(state[i]["computed"] + more) // block)

    def rest(i):
        return requests[i][1] + state[i]["generated"] - state[i]["computed"]

    while waiting or running:
        if not running and requests[waiting[0]][0] > now:
            now = min(requests[i][0] for i in waiting)
        left, new, preempted = budget, {}, False
        for i in list(running):
            if i not in running:
                continue
            want = min(rest(i), left)
            while (
                sum(blocks(j, new.get(j, 0)) for j in running if j != i) + blocks(i, want)
                > capacity
            ):
                victim = running.pop()
                state[victim]["computed"] = 0
                waiting.insert(0, victim)
                preempted = True
                if victim == i:
                    break
            if i in running:
                new[i] = want
                left -= want
        while not preempted and waiting and len(running) < max_num_seqs and left > 0:
            i = waiting[0]
            if requests[i][0] > now:
                break
            want = min(rest(i), left) if chunked else rest(i)
            if want > left and left < budget:
                break
            if sum(blocks(j, new[j]) for j in running) + blocks(i, want) > capacity:
                break
            waiting.pop(0)
            running.append(i)
            new[i] = want
            left -= want
        batch = [i for i in running if new[i] > 0]
        tokens = sum(new[i] for i in batch)
        positions = sum(state[i]["computed"] + new[i] for i in batch)
        took = time_of(len(batch), tokens, positions)
        log.append((now, len(batch), tokens, positions, took))
        now += took
        for i in list(running):
            state[i]["computed"] += new[i]
            if state[i]["computed"] == requests[i][1] + state[i]["generated"]:
                state[i]["generated"] += 1
                if state[i]["generated"] == 1:
                    state[i]["first"] = now
                if state[i]["generated"] == requests[i][2]:
                    state[i]["finish"] = now
                    running.remove(i)
    first, finish = (np.array([one[name] for one in state]) for name in ("first", "finish"))
    return first, finish, log
