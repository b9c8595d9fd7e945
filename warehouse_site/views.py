"""The root of the API, and the store's health."""

from dataclasses import asdict

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from buckets.health import Health as StoreHealth
from buckets.health import store_health
from keys.api.bodies import NoQuery
from keys.api.schema import raises
from keys.errors import Invalid
from warehouse_site import openapi


class ApiRoot(APIView):
    """The collections of this API."""

    permission_classes = (AllowAny,)
    NAMES = ("buckets", "shares", "keys", "servers", "volumes", "tasks", "usage", "proof", "health")

    @extend_schema(exclude=True)
    def get(self, request: Request) -> Response:
        return Response({name: f"{reverse('api-root', request=request)}/{name}" for name in self.NAMES})


class Schema(APIView):
    """The API as an OpenAPI document, in YAML or JSON."""

    permission_classes = (AllowAny,)
    authentication_classes = ()
    renderer_classes = tuple(openapi.RENDERERS.values())

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        media_type = request.accepted_renderer.media_type
        return HttpResponse(openapi.rendered(media_type), content_type=f"{media_type}; charset=utf-8")


class JournalSerializer(serializers.Serializer[dict[str, object]]):
    state = serializers.ChoiceField(
        choices=["ok", "late", "never", "full", "off"],
        help_text="`late`: further behind than it should be. `never`: there is none yet, as without a worker. "
        "`full`: no server has room for it, and no volume that takes a single copy.",
    )
    commits_behind = serializers.IntegerField(help_text="Commits that the volumes do not tell of yet.")
    lag_seconds = serializers.FloatField(allow_null=True, help_text="How long ago everything was written.")


class SurveySerializer(serializers.Serializer[dict[str, object]]):
    """A walk over all chunks, to see which volumes are to have how many copies."""

    done_rows = serializers.IntegerField(help_text="Chunks that were looked at.")
    total_rows = serializers.IntegerField(help_text="Chunks that there are, about.")
    raised_volumes = serializers.IntegerField()


class HealthSerializer(serializers.Serializer[dict[str, object]]):
    status = serializers.ChoiceField(
        choices=["ok", "degraded", "failing", "unavailable"],
        help_text="`unavailable`: the database does not answer. `failing`: nothing can be written (the database is "
        "behind, no server is online) or something is lost or damaged. `degraded`: a server is offline that is not in "
        "maintenance, or a volume has a copy away.",
    )
    database = serializers.CharField(help_text="`ok` or `unavailable`")
    behind = serializers.BooleanField(
        help_text="A volume server has seen later commits than this database has: nothing is written or deleted."
    )
    servers = serializers.IntegerField(help_text="Volume servers on the books, whether they are heard or not.")
    servers_online = serializers.IntegerField(help_text="Volume servers heard of in the last seconds.")
    damaged = serializers.IntegerField(help_text="Damaged records known of now, over all volumes.")
    missing = serializers.IntegerField(
        allow_null=True, help_text="Chunks without their bytes, by the last check of the store; null: none has ended."
    )
    worker = serializers.CharField(
        help_text="`alive`; `silent`: it was not heard for a minute; `none`: there is none, or it was stopped"
    )
    beat = serializers.CharField(help_text="The same of what has the scheduled tasks run.")
    tasks_failed = serializers.ListField(
        child=serializers.CharField(), help_text="Background tasks whose last run failed or was lost."
    )
    scrubs_overdue = serializers.IntegerField(
        allow_null=True, help_text="Copies of volumes that were not scrubbed in time; null: nobody has looked yet."
    )
    journal = JournalSerializer(
        allow_null=True, help_text="How far the volumes alone could rebuild the database; null: nobody can say."
    )
    degraded_volumes = serializers.IntegerField(help_text="With a copy away: they are read, and take no record.")
    copying_volumes = serializers.IntegerField(help_text="Whose copies are being made or brought into line.")
    waiting_volumes = serializers.IntegerField(help_text="Whose copies would be elsewhere if there were room.")
    unreachable_volumes = serializers.IntegerField(
        help_text="That hold something, and no server with a copy of them is online: they can't be read."
    )
    survey = SurveySerializer(
        allow_null=True, help_text="How far a change of a bucket's replication is in being applied; null: it is."
    )


class Health(APIView):
    """Whether the master can work: 200, or 503 when its database does not answer.

    Objects are read and written without a worker, too: that there is none, or that a task failed, makes no store
    unhealthy. It is told beside.
    """

    permission_classes = (AllowAny,)
    authentication_classes = ()

    @extend_schema(responses={200: HealthSerializer, 503: HealthSerializer})
    @raises(Invalid)
    def get(self, request: Request) -> Response:
        NoQuery.require(request)
        health = store_health()
        return Response(_told(health), status=200 if health.has_database else 503)


def _told(health: StoreHealth) -> dict[str, object]:
    standing, background, journal = health.standing, health.background, health.journal
    return {
        "status": health.status,
        "database": "ok" if health.has_database else "unavailable",
        "behind": standing.is_behind,
        "servers": standing.servers,
        "servers_online": standing.servers_online,
        "damaged": standing.damaged_count,
        "missing": health.missing,
        "worker": background.worker,
        "beat": background.beat,
        "tasks_failed": background.failed,
        "scrubs_overdue": background.scrubs_overdue,
        "journal": None
        if journal is None
        else {
            "state": journal.state,
            "commits_behind": journal.commits_behind,
            "lag_seconds": journal.lag_seconds,
        },
        "degraded_volumes": health.redundancy.degraded,
        "copying_volumes": health.redundancy.copying,
        "waiting_volumes": health.redundancy.waiting,
        "unreachable_volumes": health.redundancy.unreachable,
        "survey": None if health.survey is None else asdict(health.survey),
    }
