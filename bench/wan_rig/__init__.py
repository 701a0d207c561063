"""Distance on one machine: network namespaces joined by links with delay, jitter, a rate, loss and outages.

A `Rig` has namespaces, by names of the user's own, and links between them. What is done within `Namespace.entered` is
done there: sockets that are made and programs that are started in it stay in the namespace. Nothing outside of the
namespaces changes, and nothing has a name: all of it vanishes with the process that made it, however that ends.
"""

from __future__ import annotations

from bench.wan_rig.link import Link
from bench.wan_rig.namespace import Namespace, why_not
from bench.wan_rig.rig import Joint, Rig

__all__ = ["Joint", "Link", "Namespace", "Rig", "why_not"]
