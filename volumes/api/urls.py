from django.urls import path, register_converter

from volumes import converters  # noqa: F401 - registers `volume`
from volumes.api import task_views, views


class TaskName:
    """As Celery knows it: dotted words. Anything else is no task, hence 404."""

    regex = r"[A-Za-z0-9_.]{1,100}"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(TaskName, "task")

urlpatterns = [
    path("servers", views.ServerList.as_view(), name="servers"),
    path("servers/<uuid:server_id>", views.ServerDetail.as_view(), name="server"),
    path("volumes", views.VolumeList.as_view(), name="volumes"),
    path("volumes/<volume:volume_id>", views.VolumeDetail.as_view(), name="volume"),
    path("volumes/<volume:volume_id>/compact", views.VolumeCompact.as_view(), name="volume-compact"),
    path("volumes/<volume:volume_id>/scrub", views.VolumeScrub.as_view(), name="volume-scrub"),
    path("tasks", task_views.TaskList.as_view(), name="tasks"),
    path("tasks/<task:task>", task_views.TaskDetail.as_view(), name="task"),
    path("tasks/<task:task>/run", task_views.TaskRun.as_view(), name="task-run"),
]
