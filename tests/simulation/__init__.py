"""The second host: the very same actors on a virtual clock and a lossy network, from one seed.

A *world* is one coordinator, some agents and some clients, each driven by a *machine* that batches its events as
the real host does. Everything happens in one thread, in the order of one heap of (time, number, happening), and all
chance comes from the seed, so a seed is a replay. A *plan* says how much work there is and how often what fails.
A coordinator that dies leaves its disk, with the rows it has committed and the blobs they name, to the next one.
A world has two phases: first things fail, then nothing fails any more and everything must come to rest.

What must hold is judged by the *ledger*, from outside: by what clients were told, what workers did, and in the end by
what is on the coordinator's disk.
"""
