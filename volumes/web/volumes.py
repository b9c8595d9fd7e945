"""Volumes: their figures, their copies, their damage, and the work on them."""

from typing import Final

from django import forms
from django.conf import settings
from django.http.response import HttpResponseBase
from django.utils.choices import CallableChoiceIterator

from keys.errors import Conflict, Invalid
from keys.permissions import Permission
from keys.web.forms import UiForm
from keys.web.pages import FormPage, Page
from volumes import selectors
from volumes.errors import VolumeNotFound
from volumes.models import MAX_VOLUME, Volume
from volumes.services.states import seal_volume
from volumes.services.upkeep import scrub_copies, start_compaction
from volumes.web.damage import damage_of
from volumes.web.progress import VolumeRow, volume_row, volume_rows

VOLUMES_SHOWN: Final = 50
SERVERS_OFFERED: Final = 500
"""In the filter; of more than that each one's page leads to its volumes."""
DAMAGED: Final = "damaged"
_MB: Final = 1_000_000


def _servers() -> list[tuple[str, str]]:
    servers = selectors.list_server_names(limit=SERVERS_OFFERED)
    return [("", "On any server"), *((str(server.pk), str(server)) for server in servers)]


class VolumeFilter(UiForm):
    """Which volumes the list shows; all of it may be left out."""

    state = forms.ChoiceField(required=False, choices=[("", "In any state"), *Volume.State.choices])
    health = forms.ChoiceField(
        required=False,
        choices=[("", "In any health"), *((word, word.capitalize()) for word in (*selectors.HEALTH, DAMAGED))],
    )
    server = forms.UUIDField(required=False, widget=forms.Select(choices=CallableChoiceIterator(_servers)))
    after = forms.IntegerField(required=False, min_value=0, max_value=MAX_VOLUME)


class CompactForm(UiForm):
    """How a compaction shall go about it."""

    rate = forms.ChoiceField(
        label="Speed",
        required=False,
        choices=[
            ("0", "As fast as it goes"),
            *((str(mb * _MB), f"At most {mb} MB a second") for mb in (200, 50, 10, 1)),
        ],
        help_text="A slow one leaves the disk to those who read and write meanwhile.",
    )
    drop_damage = forms.BooleanField(
        label="Leave damage behind",
        required=False,
        help_text="Damaged stretches that hold no needle which the index knows are not copied. Without this nothing "
        "is dropped.",
    )


class VolumesPage(Page):
    """A page for those who may see how the store is built."""

    section = "volumes"
    needs = Permission.VOLUMES_READ


class Volumes(VolumesPage):
    """Volumes by number, those that one asks for."""

    template_name = "volumes/list.html"
    parts = ("volume-list",)

    def show(self) -> dict[str, object]:
        form = VolumeFilter(self.request.GET, auto_id="filter-%s")
        if not form.is_valid():
            raise Invalid(errors={name: [str(text) for text in texts] for name, texts in form.errors.items()})
        wanted = form.cleaned_data
        is_damaged = wanted["health"] == DAMAGED
        found = selectors.find_volumes(
            after=wanted["after"] or 0,
            state=wanted["state"],
            health="" if is_damaged else wanted["health"],
            server=wanted["server"],
            is_damaged=is_damaged,
        )
        page = list(found[: VOLUMES_SHOWN + 1])
        shown = page[:VOLUMES_SHOWN]
        return {
            "filter": form,
            "is_filtered": any(wanted[name] for name in ("state", "health", "server")),
            "is_first": not wanted["after"],
            "rows": volume_rows(shown),
            "next_after": shown[-1].pk if len(page) > VOLUMES_SHOWN else None,
            "volume_size": settings.WAREHOUSE_VOLUME_SIZE,
            # Called by the template of the whole page alone: the part that is fetched anew does without.
            "totals": selectors.totals,
            "redundancy": selectors.redundancy_counts,
            "unreachable": selectors.count_unreachable,
        }


class VolumeDetail(VolumesPage):
    """One volume."""

    template_name = "volumes/detail.html"
    parts = ("volume-now", "volume-damage")

    def show(self, volume_id: int) -> dict[str, object]:
        row = find_row(volume_id)
        return {
            "row": row,
            "pace": 2 if row.is_busy else 5,
            "volume_size": settings.WAREHOUSE_VOLUME_SIZE,
            # Asks servers, so it is called only where it is shown.
            "damage": lambda: damage_of(row, rights=self.rights),
            "may_manage": self.rights.allows(Permission.VOLUMES_MANAGE),
            "may_seal": Volume.State.SEALED in Volume.TRANSITIONS[row.volume.state],
        }


class VolumeScrub(Page):
    """Has every record of all copies checked."""

    section = "volumes"
    needs = Permission.VOLUMES_MANAGE
    http_method_names = ("post",)

    def act(self, volume_id: int) -> HttpResponseBase:
        scrub_copies(volume_id=volume_id)
        return self.done("volume", volume_id, say=f"Volume {volume_id} is being scrubbed, or is next in line.")


class VolumeCompact(FormPage):
    """Gives back the space of dead needles; the page has what else there is to choose."""

    template_name = "volumes/compact.html"
    section = "volumes"
    needs = Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE
    form_class = CompactForm

    def show(self, volume_id: int) -> dict[str, object]:
        return {"row": find_row(volume_id)}

    def save(self, form: UiForm, volume_id: int) -> HttpResponseBase:
        wanted = form.cleaned_data
        start_compaction(volume_id=volume_id, rate_bytes=int(wanted["rate"] or 0), drop_damage=wanted["drop_damage"])
        return self.done("volume", volume_id, say=f"Volume {volume_id} is being compacted.")


class VolumeSeal(Page):
    """Closes a volume to writes for good; asked first."""

    template_name = "volumes/seal.html"
    section = "volumes"
    needs = Permission.VOLUMES_READ | Permission.VOLUMES_MANAGE

    def show(self, volume_id: int) -> dict[str, object]:
        row = find_row(volume_id)
        if Volume.State.SEALED not in Volume.TRANSITIONS[row.volume.state]:
            raise Conflict(f"Volume {volume_id} is {row.volume.state} already.")
        return {"row": row}

    def act(self, volume_id: int) -> HttpResponseBase:
        seal_volume(volume_id=volume_id)
        return self.done("volume", volume_id, say=f"Volume {volume_id} is sealed.")


def find_row(volume_id: int) -> VolumeRow:
    """Raises VolumeNotFound."""
    volume = selectors.list_volumes().filter(pk=volume_id).first()
    if volume is None:
        raise VolumeNotFound(f"There is no volume {volume_id}.")
    return volume_row(volume)
