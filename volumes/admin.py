"""Servers and volumes for operators: to look at, and the few things that may be changed.

Rows are made by servers and services alone, so nothing can be added or deleted here; what is figured out by the
store is read-only; actions call the services that the API calls.
"""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from keys.admin_pages import ServiceForm, ServicesAdmin, ShownOnly, link_to, link_to_list, table, when, with_dot
from keys.errors import WarehouseError
from volumes import selectors
from volumes.background import figures_text, next_run_at, schedule_text
from volumes.models import BackgroundTask, ForgottenServer, JobState, Replica, Server, Store, Volume, Worker
from volumes.owners import owner_text, owners_of
from volumes.services import placement
from volumes.services.background import run_now
from volumes.services.checks import check_servers
from volumes.services.forgetting import forget_server
from volumes.services.redundancy import mend_volumes
from volumes.services.servers import set_admin_state
from volumes.services.states import seal_volume
from volumes.services.store import accept_store
from volumes.services.upkeep import list_damage, scrub_copies, start_compaction

DAMAGE_SHOWN = 50
"""Damaged records that a volume's page lists; `manage.py scrub` lists all that its server tells."""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}\N{NO-BREAK SPACE}%" if whole else "-"


def _damage(count: int) -> SafeString | str:
    """Damage is not to be overlooked: in words for those who do not see the colour."""
    return format_html('<strong class="damage">{} damaged</strong>', count) if count else "0"


def _work(replica: Replica) -> str:
    """What runs on a replica, and how far it is; else what failed last."""
    told = []
    for noun, job in (("compaction", replica.compaction), ("scrub", replica.scrub)):
        if job is None or job["state"] == JobState.DONE:
            continue
        if job["state"] == JobState.RUNNING:
            share = min(100, 100 * job["done_bytes"] // max(1, job["total_bytes"]))
            told.append(f"{noun} {share} %")
        else:
            told.append(f"{noun} failed: {job['detail']}")
    return ", ".join(told) or "-"


class ReplicaInline(admin.TabularInline):  # type: ignore[type-arg]
    model = Replica
    extra = 0
    can_delete = False
    show_change_link = True
    fields = (
        "volume",
        "server",
        "role",
        "state",
        "size",
        "garbage",
        "needles",
        "damaged",
        "scrubbed",
        "work",
        "detail",
        "reported",
    )
    readonly_fields = fields

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Replica]:
        return super().get_queryset(request).select_related("server", "volume")

    @admin.display(description="size")
    def size(self, replica: Replica) -> str:
        return filesizeformat(replica.size_bytes)

    @admin.display(description="garbage")
    def garbage(self, replica: Replica) -> str:
        return f"{filesizeformat(replica.garbage_bytes)} ({_percent(replica.garbage_bytes, replica.size_bytes)})"

    @admin.display(description="needles")
    def needles(self, replica: Replica) -> str:
        return f"{replica.live_count:,}"

    @admin.display(description="damaged")
    def damaged(self, replica: Replica) -> SafeString | str:
        return _damage(replica.damaged_count)

    @admin.display(description="scrubbed")
    def scrubbed(self, replica: Replica) -> str:
        return when(replica.scrubbed_at)

    @admin.display(description="work")
    def work(self, replica: Replica) -> str:
        return _work(replica)

    @admin.display(description="reported")
    def reported(self, replica: Replica) -> str:
        return when(replica.reported_at)


@admin.register(Store)
class StoreAdmin(ShownOnly):
    help_text = "Which store this is, and the numbers that are never given twice."
    list_display = ("uuid", "standing", "sequence", "lease_high", "volume_high", "made")
    fields = ("uuid", "standing", "sequence", "lease_high", "volume_high", "behind_of", "cors_origins", "made")
    actions = ("accept",)

    @admin.display(description="made")
    def made(self, store: Store) -> str:
        return when(store.created_at)

    @admin.display(description="state")
    def standing(self, store: Store) -> SafeString:
        if store.behind_of is None:
            return with_dot("online", "up to date")
        return with_dot("offline", "older than what a volume server has seen: nothing is written or deleted")

    @admin.action(description="Accept this database as the truth", permissions=["operate"])
    def accept(self, request: HttpRequest, queryset: QuerySet[Store]) -> HttpResponse | None:
        if not queryset.filter(behind_of__isnull=False).exists():
            self.message_user(request, "The database is not behind; nothing was changed.", messages.WARNING)
            return None
        warning = (
            "A volume server has seen later commits than this database has. What they made is given up for good. "
            "If the newer database can be had, stop here and put it back instead."
        )
        if (page := self.ask_first(request, queryset, title="Accept this database", warning=warning)) is not None:
            return page
        accept_store()
        placement.forget_table()
        self.message_user(request, "Accepted. Leases and deletions go on.")
        return None


class ServerForm(ServiceForm):
    class Meta:
        model = Server
        fields = ("admin_state",)
        help_texts = {
            "admin_state": "Draining and maintenance: no new needle goes there, what is there can be read. "
            "Draining: its volumes move to other servers, then it may be switched off. "
            "Maintenance announces silence: the server is not asked how it is, and nothing is copied meanwhile."
        }


@admin.register(Server)
class ServerAdmin(ServicesAdmin):
    help_text = "Volume servers, whether they are heard, and their space."
    form = ServerForm
    list_display = (
        "__str__",
        "standing",
        "public_url",
        "volumes",
        "used",
        "free",
        "damaged",
        "seen",
        "check_error",
    )
    list_filter = ("admin_state", "node")
    search_fields = ("id", "node", "public_url", "internal_url")
    search_help_text = "A part of the id, of the node's name, or of an address."
    readonly_fields = (
        "id",
        "state",
        "node",
        "public_url",
        "internal_url",
        "volumes",
        "drain",
        "version",
        "instance",
        "kid",
        "proven",
        "used",
        "free",
        "capacity",
        "damaged",
        "stray_volumes",
        "registered_at",
        "last_seen_at",
        "stopped_at",
        "silent_seconds",
        "last_checked_at",
        "check_error",
    )
    fields = ("admin_state", *readonly_fields)
    actions = ("drain_all", "keep", "maintain", "forget", "ask_all")
    unselected_actions = ("ask_all",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Server]:
        return selectors.list_servers()

    def save_model(self, request: HttpRequest, obj: Server, form: Any, change: bool) -> None:
        set_admin_state(server_id=obj.pk, admin_state=form.cleaned_data["admin_state"])

    @admin.display(description="status")
    def state(self, server: Server) -> SafeString:
        return with_dot(server.status, server.status)

    @admin.display(description="status")
    def standing(self, server: Any) -> SafeString:
        """In a list there is no column for what concerns so few of them."""
        is_emptied = server.admin_state == Server.AdminState.DRAINING
        return with_dot(server.status, f"{server.status}: {self.drain(server)}" if is_emptied else server.status)

    @admin.display(description="volumes", ordering="volume_count")
    def volumes(self, server: Any) -> SafeString:
        return link_to_list(Replica, server.volume_count, server__id__exact=server.pk)

    @admin.display(description="emptying")
    def drain(self, server: Any) -> str:
        if server.admin_state != Server.AdminState.DRAINING:
            return "-"
        if not server.volume_count:
            return "its last files are being removed" if server.holds_files else "empty: it may be switched off"
        left = f"{server.volume_count:,} volumes left, {filesizeformat(server.held_bytes)}"
        return f"{left}; {server.waiting_count:,} wait" if server.waiting_count else left

    @admin.display(description="used", ordering="used_bytes")
    def used(self, server: Server) -> str:
        return filesizeformat(server.used_bytes)

    @admin.display(description="free", ordering="free_bytes")
    def free(self, server: Server) -> str:
        share = _percent(server.free_bytes, server.capacity_bytes)
        return f"{filesizeformat(server.free_bytes)} ({share}) of {filesizeformat(server.capacity_bytes)}"

    @admin.display(description="capacity", ordering="capacity_bytes")
    def capacity(self, server: Server) -> str:
        return filesizeformat(server.capacity_bytes)

    @admin.display(description="damage", ordering="damaged_count")
    def damaged(self, server: Any) -> SafeString | str:
        return _damage(server.damaged_count)

    @admin.display(description="last heard", ordering="last_seen_at")
    def seen(self, server: Server) -> str:
        return when(server.last_seen_at)

    @admin.action(description="Drain: move their volumes to other servers", permissions=["operate"])
    def drain_all(self, request: HttpRequest, queryset: QuerySet[Server]) -> None:
        self._want(request, queryset, Server.AdminState.DRAINING, "its volumes move to other servers.")

    @admin.action(description="Active: end draining and maintenance", permissions=["operate"])
    def keep(self, request: HttpRequest, queryset: QuerySet[Server]) -> None:
        self._want(request, queryset, Server.AdminState.ACTIVE, "it takes needles.")

    @admin.action(description="Maintenance: they will be silent for a while", permissions=["operate"])
    def maintain(self, request: HttpRequest, queryset: QuerySet[Server]) -> None:
        self._want(request, queryset, Server.AdminState.MAINTENANCE, "nothing is copied for its being away.")

    def _want(self, request: HttpRequest, queryset: QuerySet[Server], admin_state: str, success: str) -> None:
        for server in queryset:
            set_admin_state(server_id=server.pk, admin_state=admin_state)
            self.message_user(request, f"Server {server}: {success}")

    @admin.action(description="Forget: they are gone for good", permissions=["operate"])
    def forget(self, request: HttpRequest, queryset: QuerySet[Server]) -> HttpResponse | None:
        warning = (
            "For servers that will never come back: they are taken off the books, and never let in again under their "
            "ids. Their copies are made anew from others. One that alone has what objects name is refused."
        )
        if (page := self.ask_first(request, queryset, title="Forget servers", warning=warning)) is not None:
            return page
        for server in queryset:
            done = forget_server(server_id=server.pk)
            self.message_user(
                request,
                f"Server {server} is forgotten: {done.copies:,} copies are made anew, {done.volumes:,} volumes that "
                "held nothing are gone.",
            )
        return None

    @admin.action(description="Ask all of them how they are now, as the worker does", permissions=["operate"])
    def ask_all(self, request: HttpRequest, queryset: QuerySet[Server]) -> None:
        result = check_servers()
        level = messages.WARNING if result.failed else messages.SUCCESS
        self.message_user(request, f"{result.answered} answered, {result.failed} did not.", level)


@admin.register(ForgottenServer)
class ForgottenServerAdmin(ShownOnly):
    help_text = "Servers that died for good and were taken off the books: they are never let in again under their ids."
    list_display = ("__str__", "forgotten")
    fields = readonly_fields = ("id", "node", "forgotten", "served")

    @admin.display(description="forgotten", ordering="forgotten_at")
    def forgotten(self, server: ForgottenServer) -> str:
        return when(server.forgotten_at)

    @admin.display(description="what it had served")
    def served(self, server: ForgottenServer) -> str:
        return figures_text(server.traffic)


@admin.register(Volume)
class VolumeAdmin(ShownOnly):
    list_display = (
        "id",
        "state",
        "copies",
        "size",
        "garbage",
        "needles",
        "damaged",
        "scrubbed",
        "work",
        "servers",
        "figures_of",
    )
    help_text = "The logs that needles lie in: their size, their garbage, their damage, and what runs on them."
    list_filter = ("state", "redundancy", "replication")
    search_fields = ("=id",)
    search_help_text = "A volume's number."
    readonly_fields = (
        "id",
        "state",
        "replication",
        "redundancy",
        "redundancy_note",
        "redundancy_changed_at",
        "epoch",
        "opened_epoch",
        "made",
        "state_changed_at",
        "damage",
    )
    fields = readonly_fields  # the rest is the master's own, and its note says what that means
    inlines = (ReplicaInline,)
    actions = ("compact", "scrub", "seal", "mend")
    unselected_actions = ("mend",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Volume]:
        return selectors.list_volumes()

    def _primary(self, volume: Volume) -> Replica | None:
        return next((one for one in volume.replicas.all() if one.role == Replica.Role.PRIMARY), None)

    @admin.display(description="copies")
    def copies(self, volume: Volume) -> SafeString:
        dot = {"whole": "online", "degraded": "offline"}.get(volume.redundancy, "draining")
        told = f"{len(volume.replicas.all())} of {volume.replication}, {volume.redundancy}"
        if volume.redundancy == Volume.Redundancy.WHOLE and volume.redundancy_note:
            return with_dot("draining", f"{told}; waits for others")
        return with_dot(dot, told)

    @admin.display(description="made")
    def made(self, volume: Volume) -> str:
        return when(volume.created_at)

    @admin.display(description="size")
    def size(self, volume: Volume) -> str:
        primary = self._primary(volume)
        return filesizeformat(primary.size_bytes) if primary else "-"

    @admin.display(description="garbage")
    def garbage(self, volume: Volume) -> str:
        primary = self._primary(volume)
        if primary is None:
            return "-"
        return f"{filesizeformat(primary.garbage_bytes)} ({_percent(primary.garbage_bytes, primary.size_bytes)})"

    @admin.display(description="needles")
    def needles(self, volume: Volume) -> str:
        primary = self._primary(volume)
        return f"{primary.live_count:,}" if primary else "-"

    @admin.display(description="damage")
    def damaged(self, volume: Volume) -> SafeString | str:
        return _damage(sum(one.damaged_count for one in volume.replicas.all()))

    @admin.display(description="scrubbed")
    def scrubbed(self, volume: Volume) -> str:
        primary = self._primary(volume)
        return when(primary.scrubbed_at if primary else None)

    @admin.display(description="work")
    def work(self, volume: Volume) -> str:
        primary = self._primary(volume)
        return _work(primary) if primary else "-"

    @admin.display(description="servers")
    def servers(self, volume: Volume) -> SafeString:
        dots = ((with_dot(one.server.status, link_to(one.server)),) for one in volume.replicas.all())
        return format_html_join(", ", "{}", dots)

    @admin.display(description="figures of")
    def figures_of(self, volume: Volume) -> str:
        """When its server was heard last: so old is what the row shows."""
        primary = self._primary(volume)
        return when(primary.server.last_seen_at if primary else None)

    @admin.display(description="damaged records")
    def damage(self, volume: Volume) -> SafeString | str:
        """Asked of the server while the page is made, for volumes alone that are known to be damaged."""
        copies = list(volume.replicas.all())
        damaged = [one for one in copies if one.damaged_count]
        if not damaged:
            return "none known"
        if len(copies) == 1:
            return self._damage_of(damaged[0])
        return format_html_join("", "<div>On {}: {}</div>", ((one.server, self._damage_of(one)) for one in damaged))

    def _damage_of(self, replica: Replica) -> SafeString | str:
        try:
            report = list_damage(volume_id=replica.volume_id, server_id=replica.server_id)
        except WarehouseError as error:
            return f"{replica.damaged_count}; which ones is not known now: {error.detail}"
        if not report.count:
            return "none known any more; the figures follow in a moment"
        if not report.records:
            is_looking = replica.scrub is not None and replica.scrub["state"] == JobState.RUNNING
            where = "where is being looked for" if is_looking else "scrub the volume to learn where"
            return format_html('<span class="damage">{} damaged</span>; {}', report.count, where)
        shown = report.records[:DAMAGE_SHOWN]
        owners = owners_of({one.needle for one in shown if one.needle is not None})
        rows = [
            (
                "unknown" if one.needle is None else f"{one.needle:016x}",
                "unknown" if one.needle is None else owner_text(owners[one.needle]),
                one.offset,
                one.size_bytes,
                one.reason,
            )
            for one in shown
        ]
        return format_html(
            '<p class="damage">{}</p>{}',
            f"{report.count} damaged" + (f", the first {len(shown)} of them:" if len(shown) < report.count else ":"),
            table(("needle", "of", "at", "bytes", "what is wrong"), rows),
        )

    @admin.action(description="Compact: give back the space of dead needles", permissions=["operate"])
    def compact(self, request: HttpRequest, queryset: QuerySet[Volume]) -> None:
        self._each(request, queryset, start_compaction, "the compaction runs; see its row for how far it is.")

    @admin.action(description="Scrub now: check every record", permissions=["operate"])
    def scrub(self, request: HttpRequest, queryset: QuerySet[Volume]) -> None:
        self._each(request, queryset, scrub_copies, "the scrub runs, or is next in its server's line.")

    @admin.action(description="Seal: no more writes, for good", permissions=["operate"])
    def seal(self, request: HttpRequest, queryset: QuerySet[Volume]) -> HttpResponse | None:
        warning = "Nothing is written to these volumes again, for good; what is in them can be read."
        if (page := self.ask_first(request, queryset, title="Seal volumes", warning=warning)) is not None:
            return page
        self._each(request, queryset, seal_volume, "it is sealed.")
        return None

    @admin.action(description="See to the copies of all now, as the worker does", permissions=["operate"])
    def mend(self, request: HttpRequest, queryset: QuerySet[Volume]) -> None:
        result = mend_volumes()
        told = f"{result.looked_at} looked at, {result.changed} brought further, {result.waiting} wait."
        self.message_user(request, told, messages.WARNING if result.waiting else messages.SUCCESS)

    def _each(
        self, request: HttpRequest, queryset: QuerySet[Volume], service: Callable[..., object], success: str
    ) -> None:
        self.do_each(
            request,
            queryset,
            lambda volume: service(volume_id=volume.pk),
            success,
            named=lambda volume: f"Volume {volume.pk}",
        )


@admin.register(Replica)
class ReplicaAdmin(ShownOnly):
    help_text = "The copies of volumes on servers, each with what its server told last."
    list_display = (
        "volume",
        "server",
        "standing",
        "size",
        "garbage",
        "needles",
        "damaged",
        "scrubbed",
        "work",
        "reported",
    )
    list_filter = ("role", "state", "server")
    list_select_related = ("volume", "server")
    search_fields = ("=volume__id", "server__id", "server__node")
    search_help_text = "A volume's number, or a part of a server's id or of its node's name."

    @admin.display(description="state", ordering="role")
    def standing(self, replica: Replica) -> str:
        return f"{replica.get_role_display()}, {replica.get_state_display().lower()}"

    @admin.display(description="size", ordering="size_bytes")
    def size(self, replica: Replica) -> str:
        return filesizeformat(replica.size_bytes)

    @admin.display(description="garbage", ordering="garbage_bytes")
    def garbage(self, replica: Replica) -> str:
        return f"{filesizeformat(replica.garbage_bytes)} ({_percent(replica.garbage_bytes, replica.size_bytes)})"

    @admin.display(description="needles", ordering="live_count")
    def needles(self, replica: Replica) -> str:
        return f"{replica.live_count:,}"

    @admin.display(description="damage", ordering="damaged_count")
    def damaged(self, replica: Replica) -> SafeString | str:
        return _damage(replica.damaged_count)

    @admin.display(description="work")
    def work(self, replica: Replica) -> str:
        return _work(replica)

    @admin.display(description="scrubbed", ordering="scrubbed_at")
    def scrubbed(self, replica: Replica) -> str:
        return when(replica.scrubbed_at)

    @admin.display(description="reported", ordering="reported_at")
    def reported(self, replica: Replica) -> str:
        return when(replica.reported_at)


@admin.register(BackgroundTask)
class BackgroundTaskAdmin(ShownOnly):
    help_text = "What the worker does by itself: how the last run of each task went, and when the next one is due."
    list_display = (
        "name",
        "standing",
        "started",
        "took",
        "next_run",
        "runs",
        "failures",
        "losses",
        "figures",
        "trouble",
    )
    search_fields = ("name",)
    search_help_text = "A part of the task's name."
    readonly_fields = (
        "name",
        "standing",
        "schedule",
        "started_at",
        "ended_at",
        "took",
        "next_run",
        "runs",
        "failures",
        "losses",
        "figures",
        "error",
        "run_id",
    )
    fields = readonly_fields
    actions = ("run",)

    @admin.display(description="state", ordering="state")
    def standing(self, task: BackgroundTask) -> SafeString:
        return with_dot(_TASK_DOTS.get(task.status, "online"), task.status)

    @admin.display(description="last start", ordering="started_at")
    def started(self, task: BackgroundTask) -> str:
        return when(task.started_at)

    @admin.display(description="took", ordering="duration_ms")
    def took(self, task: BackgroundTask) -> str:
        return "-" if task.duration_ms is None else f"{task.duration_ms / 1000:.1f} s"

    @admin.display(description="next run")
    def next_run(self, task: BackgroundTask) -> str:
        return when(next_run_at(task))

    @admin.display(description="schedule")
    def schedule(self, task: BackgroundTask) -> str:
        return schedule_text(task.name) or "when something asks for it"

    @admin.display(description="figures")
    def figures(self, task: BackgroundTask) -> str:
        return figures_text(task.result)

    @admin.display(description="error")
    def trouble(self, task: BackgroundTask) -> str:
        return task.error[:100] or "-"

    @admin.action(description="Run now", permissions=["operate"])
    def run(self, request: HttpRequest, queryset: QuerySet[BackgroundTask]) -> None:
        self.do_each(
            request,
            queryset,
            lambda task: run_now(name=task.name),
            "a worker is asked to run it.",
            named=lambda task: str(task.name),
        )


_TASK_DOTS = {"failed": "offline", "lost": "offline", "waiting": "maintenance"}


@admin.register(Worker)
class WorkerAdmin(ShownOnly):
    help_text = "The processes that run background tasks."
    list_display = ("name", "standing", "started_at", "seen_at")

    @admin.display(description="state")
    def standing(self, worker: Worker) -> SafeString:
        return with_dot("online", "alive") if worker.is_alive else with_dot("offline", "silent")
