"""Ranks as threads of one process: a communicator with the calls of mpi4py that exchanges need."""

import threading

import numpy as np


class World:
    """Ranks that run the same function, each in a thread."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.shelf = [None] * size

    def run(self, function):
        """Results of ``function(comm)`` of all ranks; raises what the first failing rank raised."""
        results, errors = [None] * self.size, []

        def work(rank):
            try:
                results[rank] = function(Comm(self, rank))
            except Exception as error:
                errors.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise next((one for one in errors if not isinstance(one, threading.BrokenBarrierError)), errors[0])
        return results


class Comm:
    """What one rank sees; every call waits for all ranks, as MPI may."""

    def __init__(self, world, rank):
        self.world, self.rank, self.size = world, rank, world.size
        self.n_calls = 0

    def _share(self, value):
        self.n_calls += 1
        self.world.shelf[self.rank] = value
        self.world.barrier.wait()
        found = list(self.world.shelf)
        self.world.barrier.wait()
        return found

    def Alltoall(self, values, found):
        found[:] = [theirs[self.rank] for theirs in self._share(values.copy())]

    def Alltoallv(self, sent, received):
        values, (counts, starts) = sent
        flat = values.reshape(-1)
        parts = [flat[start : start + count].copy() for start, count in zip(starts, counts, strict=True)]
        found, (coming, begin) = received
        out = found.reshape(-1)
        assert out.base is not None or out is found  # a view, so that what is written is seen
        for rank, theirs in enumerate(self._share(parts)):
            part = theirs[self.rank]
            assert len(part) == coming[rank], "ranks disagree on how much is sent"
            out[begin[rank] : begin[rank] + len(part)] = part

    def Allreduce(self, values, total):
        total[:] = np.sum(self._share(values.copy()), axis=0)

    def allreduce(self, value):
        return sum(self._share(value))
