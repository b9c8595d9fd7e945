"""The end of needles: tombstones, had from the server that holds them."""

from collections.abc import Sequence

from volumes import client
from volumes.client import DeleteResult
from volumes.errors import ServerUnreachable, VolumeNotFound
from volumes.selectors import primary_servers
from volumes.services.store import require_not_behind


def delete_needles(*, volume_id: int, needles: Sequence[int]) -> DeleteResult:
    """Has needles of one volume tombstoned, durable when this returns. Nothing dies by an old database's word.

    Raises LeasesHalted, VolumeNotFound, VolumeServerError; after an error what became of them is not known.
    """
    require_not_behind()
    server = primary_servers([volume_id]).get(volume_id)
    if server is None:
        raise VolumeNotFound(f"There is no volume {volume_id}.")
    if not server.is_alive():
        raise ServerUnreachable(f"Server {server.pk}, which holds volume {volume_id}, is offline.")
    return client.delete_needles(server, volume_id, needles)
