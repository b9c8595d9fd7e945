"""What stands in addresses for a volume."""

from django.urls import register_converter

from volumes.models import MAX_VOLUME


class VolumeNumber:
    """A u32 in decimals without leading zeros; anything else is no volume, hence 404."""

    regex = "[1-9][0-9]{0,9}"

    def to_python(self, value: str) -> int:
        number = int(value)
        if number > MAX_VOLUME:
            raise ValueError("too large for a volume number")
        return number

    def to_url(self, value: int) -> str:
        return str(value)


register_converter(VolumeNumber, "volume")
