"""The methods that ours is compared with, on the same backbone, noise and grid."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from eim_ops.backbones.base import Backbone
from eim_ops.joint import Conditioning
from eim_ops.peers.dds import dds
from eim_ops.peers.flowedit import flowedit
from eim_ops.peers.rf_inversion import rf_inversion
from eim_ops.peers.sdedit import sdedit


class Peer(Protocol):
    """An editing method with its settings."""

    def __call__(
        self, backbone: Backbone, clean: Tensor, source: Conditioning, target: Conditioning, empty: Conditioning,
        seeds: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """Clean latents (B, C, h, w) edited from what `source` says to what `target` says, same shape and dtype.

        empty: the empty prompt's conditioning, for classifier-free guidance. Row i depends on row i of each
        argument alone, on seeds[i] for its noise. Raises ValueError for guidance other than 1 of a model that was not
        made for it.
        """


PEERS: dict[str, Peer] = {"sdedit": sdedit, "dds": dds, "flowedit": flowedit, "rf_inversion": rf_inversion}
"""Each at its published settings; others are bound with `functools.partial(peer, settings=...)`."""
