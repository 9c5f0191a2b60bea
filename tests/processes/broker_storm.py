"""What befalls workers on a broker, at no moment in particular, until all messages are dealt with."""

from __future__ import annotations

import random
import time

from tests.processes.messaging import wait_until

WORKERS = 2


class Storm:
    """Kills workers and starts others, cuts their cable, and kills the broker."""

    def __init__(self, worker, cable, server, seed):
        self.worker, self.cable, self.server = worker, cable, server
        self.chance = random.Random(seed)
        self.kills = self.cuts = self.restarts = 0

    def rage(self, rounds, restarts, is_over):
        """So many kills and cuts, or until it is over. The broker is restarted in the given rounds."""
        self.worker.start(WORKERS)
        for number in range(rounds):
            if number > max(restarts, default=0) and is_over():
                break
            self.pause(0.05, 0.6)
            if number in restarts:
                self.restart()
            elif self.chance.random() < 0.6:
                self.kill()
            else:
                self.cut()

    def kill(self):
        self.worker.kill(self.chance.randrange(WORKERS))
        self.kills += 1
        self.pause(0, 0.1)
        self.worker.begin()

    def cut(self):
        self.cable.cut()
        self.cuts += 1
        self.pause(0, 0.2)
        self.cable.mend()

    def restart(self):
        self.server.kill() if self.restarts % 2 == 0 else self.server.stop()
        self.restarts += 1
        self.server.start()

    def pause(self, *seconds):
        time.sleep(self.chance.uniform(*seconds))


def calm(worker, queues, *names):
    """Handle the rest in peace, until nothing waits, and nothing was in a worker's hands either."""
    while True:
        wait_until(lambda: not any(map(queues.left, names)))
        assert set(worker.stop()) <= {0}
        if not any(map(queues.left_in_all, names)):
            return
        worker.start(WORKERS)
