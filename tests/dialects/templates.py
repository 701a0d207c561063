"""Events counted as the fast path counts them, and events that no template fits."""

from __future__ import annotations

from flowserver.dialects.base import Meter


def count_by_template(meter: Meter, event: bytes) -> bool:
    """Count an event as it stands on the wire by the meter's template. False: it was not counted, as none fits."""
    template = meter.template
    text = template.text_of(event) if template is not None else b""
    if not text:
        return False
    meter.content.pending.extend(text)
    meter.count_template(1, len(text))
    return True


def unlike_others(number: int, data: bytes) -> bytes:
    """The data of event `number` with blanks in front that those of no other event have, so that they are parsed."""
    return format(number, "b").translate({48: " ", 49: "\t"}).encode() + data
