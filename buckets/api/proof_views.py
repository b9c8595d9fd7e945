"""Checks of the whole store: how the last one ended, and asking for another."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from buckets.models import Proof
from buckets.services.fsck import verdict
from buckets.services.proofs import ask_for_proof
from buckets.services.sweep import sweep_figures
from buckets.tasks import wake_proofs
from keys.api import rights
from keys.api.bodies import Body, FlagField, NoQuery
from keys.api.schema import raises
from keys.errors import Invalid
from keys.permissions import Permission
from volumes.errors import VolumeNotFound
from volumes.models import MAX_VOLUME, Volume


class FindingOwnerSerializer(serializers.Serializer[Any]):
    bucket = serializers.CharField()
    key = serializers.CharField()
    chunk = serializers.IntegerField()
    is_upload = serializers.BooleanField(help_text="The chunk is an upload's that is still in progress.")


class FindingSerializer(serializers.Serializer[Any]):
    """One thing that a check found, or could not find out."""

    kind = serializers.ChoiceField(choices=Proof.Kind.choices)
    volume = serializers.IntegerField(allow_null=True)
    server = serializers.CharField(help_text="Of whose copy it is told; empty: of none alone.")
    needle = serializers.CharField(allow_null=True, help_text="16 hex digits.")
    owners = FindingOwnerSerializer(many=True)
    detail = serializers.CharField()


class ProofSerializer(serializers.ModelSerializer[Proof]):
    state = serializers.ChoiceField(choices=Proof.State.choices)
    verdict = serializers.SerializerMethodField(help_text="What was found, in one line; null: it has not ended.")
    findings = FindingSerializer(many=True, help_text="The first thousand.")

    class Meta:
        model = Proof
        fields = (
            "id",
            "state",
            "deep",
            "volume",
            "asked_at",
            "started_at",
            "ended_at",
            "volume_count",
            "needle_count",
            "row_count",
            *(kind.value for kind in Proof.Kind),
            "verdict",
            "findings",
        )
        read_only_fields = fields

    def get_verdict(self, proof: Proof) -> str | None:
        return verdict(proof.counts) if proof.state == Proof.State.DONE else None


class SweepFiguresSerializer(serializers.Serializer[Any]):
    """Needles that no row names, as the last listing of each volume saw them."""

    volumes = serializers.IntegerField(help_text="Volumes that have been listed.")
    orphans = serializers.IntegerField()
    orphan_bytes = serializers.IntegerField()
    deleted = serializers.IntegerField(help_text="Orphans that were deleted, ever.")
    deleted_bytes = serializers.IntegerField()
    held_back = serializers.IntegerField(help_text="Volumes with so many that an operator has to say so.")


class ProofsSerializer(serializers.Serializer[Any]):
    """The last check that ended, the one that is asked for or under way, and what the sweep knows."""

    last = ProofSerializer(allow_null=True)
    current = ProofSerializer(allow_null=True)
    sweep = SweepFiguresSerializer()


class ProofAskSerializer(Body):
    """What shall be checked."""

    deep = FlagField(default=False, help_text="The servers read all data, not headers alone.")
    volume = serializers.IntegerField(
        default=None, allow_null=True, min_value=1, max_value=MAX_VOLUME, help_text="This volume alone."
    )


class Proofs(APIView):
    """Proof that every chunk has its bytes and every needle its owner."""

    @extend_schema(responses=ProofsSerializer)
    @raises(Invalid)
    def get(self, request: Request) -> Response:
        """How the last check of the store ended, whether one is under way, and how many orphans there are."""
        rights(request).require(Permission.VOLUMES_READ)
        NoQuery.require(request)
        found = {
            "last": Proof.objects.filter(state=Proof.State.DONE).first(),
            "current": Proof.objects.exclude(state=Proof.State.DONE).order_by("pk").first(),
            "sweep": sweep_figures(),
        }
        return Response(ProofsSerializer(found).data)

    @extend_schema(request=ProofAskSerializer, responses={202: ProofSerializer})
    @raises(VolumeNotFound)
    def post(self, request: Request) -> Response:
        """Have the worker check the store, or one volume, as soon as it can."""
        rights(request).require(Permission.VOLUMES_MANAGE)
        given = ProofAskSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        volume_id = given.validated_data["volume"]
        if volume_id is not None and not Volume.objects.filter(pk=volume_id).exists():
            raise VolumeNotFound(f"There is no volume {volume_id}.")
        proof = ask_for_proof(deep=given.validated_data["deep"], volume_id=volume_id)
        wake_proofs()
        return Response(ProofSerializer(proof).data, status=202)
