"""What is killed before each thing that it changes: a fake host, or a rotation in Python."""

import itertools


class Killed(BaseException):
    """SIGKILL: nothing that the code catches."""


class Killable:
    """What is killed.

    Attributes:
        actions: What it has done, in order.
        left: How many more actions there are before a kill; None for no kill.
        fatal: How the action begins that it is killed before, once; nothing for no kill.
    """

    def __init__(self):
        self.actions, self.left, self.fatal = [], None, ""

    def act(self, what):
        """Note what is done next, or be killed before it."""
        if self.fatal and what.startswith(self.fatal):
            self.fatal = ""
            raise Killed(what)
        if self.left is not None:
            if self.left == 0:
                raise Killed(what)
            self.left -= 1
        self.actions.append(what)


def assert_each_is_finished(make, whole):
    """Kill a run before each of its actions, and the next run before each of its own.

    Args:
        make: Returns a new world, which has run(), check() of what holds at any time, and state().
        whole: One whose run() was not killed.
    """
    for first, second in itertools.product(range(len(whole.actions) + 1), repeat=2):
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
