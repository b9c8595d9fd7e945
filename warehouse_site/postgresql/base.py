"""What `ENGINE` names.

Kept connections are checked before each request's first statement (`CONN_HEALTH_CHECKS`), so that a restarted server
costs nobody an error. Django asks `SELECT 1`, one more way to the server and back, which for a lease is as much as its
only query. A server that ends a connection says so, and then there is something to read where nothing should be.
"""

import select

from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def is_usable(self) -> bool:
        """Whether the connection works: without a question where nothing speaks against it."""
        if self.connection is None or self.connection.closed:
            return False
        if self.errors_occurred or _has_something_to_say(self.connection.fileno()):
            usable: bool = super().is_usable()
            return usable
        return True


def _has_something_to_say(descriptor: int) -> bool:
    """Whether bytes or an end came; between two statements a server is silent but for notices."""
    poll = select.poll()  # select() itself takes no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
