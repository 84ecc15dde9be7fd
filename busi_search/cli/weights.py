"""Commands about pretrained weights: ``weights …``."""

import click

from busi_search.cli.groups import Group, deferred
from busi_search.cli.options import JSON_OPTION


@click.group(cls=Group)
def weights() -> None:
    """List, fetch and check pretrained weights."""


@weights.command("list", short_help="List pretrained weights and which are on this machine.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]…")
@JSON_OPTION
@deferred("busi_search.cli.actions.weights_list")
def weights_list() -> None:
    """List pretrained weights: source, size, checksum, licence, and which are on this machine.

    PATTERN is an architecture such as resnet18, or a pattern such as 'timm/resnet18*'.

    \b
    Example:
      busi-search weights list
      busi-search weights list 'timm/resnet18*'
    """


@weights.command("fetch", short_help="Download weights and verify their checksums.")
@click.argument("architectures", nargs=-1, required=True, metavar="ARCHITECTURE…")
@JSON_OPTION
@deferred("busi_search.cli.actions.weights_fetch")
def weights_fetch() -> None:
    """Download the pretrained weights of architectures, unless they are already here.

    Files are saved in PyTorch's checkpoint folder (set TORCH_HOME to change it). For a machine
    without a network, copy them into the same folder there.

    \b
    Example:
      busi-search weights fetch resnet18 timm/convnext_atto
    """


@weights.command("check", short_help="Verify the weights on this machine.")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]…")
@JSON_OPTION
@deferred("busi_search.cli.actions.weights_check")
def weights_check() -> None:
    """Read all weights on this machine and compare them with their checksums.

    Exit code 1 if a file is damaged.

    \b
    Example:
      busi-search weights check
    """
