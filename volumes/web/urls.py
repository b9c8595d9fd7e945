from django.urls import path

from volumes import converters  # noqa: F401 - registers `volume`
from volumes.web import servers, volumes

urlpatterns = [
    path("servers", servers.Servers.as_view(), name="servers"),
    path("servers/<uuid:server_id>", servers.ServerDetail.as_view(), name="server"),
    path("servers/<uuid:server_id>/wish", servers.ServerWish.as_view(), name="server-wish"),
    path("servers/<uuid:server_id>/forget", servers.ServerForget.as_view(), name="server-forget"),
    path("volumes", volumes.Volumes.as_view(), name="volumes"),
    path("volumes/<volume:volume_id>", volumes.VolumeDetail.as_view(), name="volume"),
    path("volumes/<volume:volume_id>/compact", volumes.VolumeCompact.as_view(), name="volume-compact"),
    path("volumes/<volume:volume_id>/scrub", volumes.VolumeScrub.as_view(), name="volume-scrub"),
    path("volumes/<volume:volume_id>/seal", volumes.VolumeSeal.as_view(), name="volume-seal"),
]
