"""A rotation in Python that is killed before each thing that it changes."""

import itertools


class Killed(BaseException):
    """SIGKILL: nothing that the code catches."""


class Killable:
    """What is killed.

    Attributes:
        changes: What it has changed, in order.
        left: How many more changes there are before a kill; None for no kill.
    """

    def __init__(self):
        self.changes, self.left = [], None

    def changing(self, what):
        """Note what is changed next, or be killed before it."""
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1
        self.changes.append(what)


def assert_each_is_finished(make, whole):
    """Kill a run before each of its changes, and the next run before each of its own.

    Args:
        make: Returns a new world, which has run(), check() of what holds at any time, and state().
        whole: One whose run() was not killed.
    """
    for first, second in itertools.product(range(len(whole.changes) + 1), repeat=2):
        world = make()
        for world.left in (first, second):
            try:
                world.run()
                break
            except Killed:
                world.check()
        else:
            world.left = None
            world.run()
        world.check()
        assert world.state() == whole.state(), (first, second)
        # And a run that finds all done changes nothing: it would be killed.
        world.left = 0
        world.run()
