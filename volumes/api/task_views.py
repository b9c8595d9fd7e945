"""Background tasks: how they went, for keys with VOLUMES_READ; asking for one, for those with ADMIN."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from keys.api import rights
from keys.api.bodies import NoQuery
from keys.api.schema import raises
from keys.errors import Invalid
from keys.permissions import Permission
from volumes.api.views import ReadersView
from volumes.background import TaskStatus, find_task, list_tasks
from volumes.errors import TaskNotQueued, TaskUnknown
from volumes.services.background import run_now


class TaskSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    status = serializers.ChoiceField(
        choices=["waiting", "running", "done", "failed", "lost"],
        help_text="Of the last run. `waiting`: there was none. `lost`: its time is over, and it never said how it "
        "ended; its worker was killed, or hangs.",
    )
    schedule = serializers.CharField(help_text="When it is run; empty: when something asks for it.")
    started_at = serializers.DateTimeField(allow_null=True, help_text="Of the last run.")
    ended_at = serializers.DateTimeField(allow_null=True, help_text="Of the run that ended last, however.")
    duration_ms = serializers.IntegerField(allow_null=True, help_text="Of the run that ended last.")
    next_run_at = serializers.DateTimeField(
        allow_null=True, help_text="When it is due; in the past, nobody had it run then. null: not known (yet)."
    )
    result = serializers.JSONField(allow_null=True, help_text="The figures of the last run that was done.")
    error = serializers.CharField(help_text="Why the run that ended last failed; empty: it did not.")
    runs = serializers.IntegerField()
    failures = serializers.IntegerField()
    losses = serializers.IntegerField(help_text="Runs that never said how they ended.")


class TaskListSerializer(serializers.Serializer[Any]):
    results = TaskSerializer(many=True)


class TaskList(ReadersView):
    """All background tasks, by name: their last run, their next one, and what came of it."""

    @extend_schema(responses=TaskListSerializer)
    @raises(Invalid)
    def get(self, request: Request) -> Response:
        NoQuery.require(request)
        return Response({"results": TaskSerializer(list_tasks(), many=True).data})


class TaskDetail(ReadersView):
    """One background task."""

    @extend_schema(responses=TaskSerializer)
    @raises(TaskUnknown)
    def get(self, request: Request, task: str) -> Response:
        return Response(TaskSerializer(_task(task)).data)


class TaskRun(APIView):
    """Have a background task run now, by the next worker that is free.

    The answer comes at once, with the task as it stands; a later `started_at` tells that it ran. Without a worker the
    message waits for one for an hour. Any task may run at any time, beside another run of itself, too.
    """

    @extend_schema(request=None, responses={202: TaskSerializer})
    @raises(TaskUnknown, TaskNotQueued)
    def post(self, request: Request, task: str) -> Response:
        rights(request).require(Permission.ADMIN)
        run_now(name=task)
        return Response(TaskSerializer(_task(task)).data, status=202)


def _task(name: str) -> TaskStatus:
    """Raises TaskUnknown."""
    found = find_task(name)
    if found is None:
        raise TaskUnknown(f"There is no task {name!r}.")
    return found
