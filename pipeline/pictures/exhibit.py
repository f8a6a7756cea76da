"""Pictures of a data set's selected runs, beside random initialisation and raw pixels.

Legend: Q images on the sheets, h x w positions of a map, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from pipeline.data.views.multicrop import evaluation_view
from pipeline.models import features
from pipeline.models.backbones import create_backbone, initial_backbone
from pipeline.models.weights import load_weights
from pipeline.pictures import embedding_map, neighbours
from pipeline.pictures.colours import heat, pca_rgb
from pipeline.pictures.encoders_shown import Run
from pipeline.pictures.image_set import EmbeddingSpace, ImageSet, reader_of
from pipeline.pictures.last_layer import cls_attention, deepest_features, has_class_token, mean_activation, stitched
from pipeline.pictures.sheet import sheet, thumbnails
from pipeline.runtime.bars import DELAY_S, bar
from pipeline.runtime.errors import UserError
from pipeline.schema.analysis import Pictures

LEAST_SIDE, FINE_SIDE = 4, 16  # positions a side: of the layer that is shown, and of the picture made of it
FEATURES_CELL_PX = 96


class Exhibit(NamedTuple):
    """PNG files by name, and what is to be said of them, as JSON value."""

    files: dict[str, bytes]
    facts: dict[str, Any]


class Seen(NamedTuple):
    """What a network makes of each place of the images on the sheets.

    features: (Q, h, w, D). attention: (Q, h, w), of the class token or, without one, the mean activation. layer: its
    name. grid: positions a side in one look, before shifted copies made the map finer.
    """

    features: Tensor
    attention: Tensor
    layer: str
    grid: tuple[int, int]


def exhibits(runs: Mapping[str, Run], settings: Pictures) -> dict[str, Exhibit]:
    """Make the pictures of every run of one data set.

    Args:
        runs: of `picks.picked_runs`, by the name of the backbone.
        settings: the section `pictures`.

    Returns:
        By name: `<name>-features.png` (left out where no map can be shown; the facts say why),
        `<name>-neighbours.png` and `<name>-map.png`.
    """
    rooms: dict[tuple[int, int], ImageSet] = {}
    found = {}
    for name, run in bar("pictures", len(runs), unit="backbone", delay_s=DELAY_S, iterable=runs.items()):
        seen_as = run.model["img_size_px"], run.shown.load_px
        rooms[seen_as] = rooms.get(seen_as) or ImageSet(run, settings)
        found[name] = _exhibit(name, run, rooms[seen_as])
    return found


def _exhibit(name: str, run: Run, room: ImageSet) -> Exhibit:
    networks, reader = _networks(run), reader_of(run)
    embed = partial(features.embeddings, reader=reader, site=run.shown.site)
    spaces = room.explore({title: partial(embed, network) for title, network in networks.items()}) | room.raw_pixels
    files = {
        f"{name}-neighbours.png": _draw_neighbours(spaces, room),
        f"{name}-map.png": _draw_maps(name, spaces, room),
    }
    facts = {
        "cell": run.pick["cell"],
        "lambda": run.pick["lambda"],
        "num_train": len(room.train.labels),
        "num_test": len(room.test.labels),
        "num_mapped": len(room.mapped),
        "num_shown": len(room.shown),
        "spaces": {title: _numbers(space) for title, space in spaces.items()},
    }
    images = room.queries
    views = evaluation_view(images.pixels, room.size_px, mean=reader.mean, std=reader.std)
    views = views.to(reader.device)
    try:
        seen = {title: see(network.to(reader.device).eval(), views) for title, network in networks.items()}
    except UserError as error:
        return Exhibit(files, {**facts, "no_features": str(error)})
    token = has_class_token(networks["learned"])
    facts |= {"layer": seen["learned"].layer, "grid": list(seen["learned"].grid), "class_token": token}
    facts["fine_grid"] = list(seen["learned"].attention.shape[1:])
    return Exhibit({f"{name}-features.png": _draw_features(seen, room, token), **files}, facts)


def _networks(run: Run) -> dict[str, nn.Module]:
    architecture = run.model["backbone"], run.model["kwargs"]
    learned = create_backbone(*architecture)
    load_weights(run.weights, learned)
    return {"learned": learned, "random init": initial_backbone(*architecture, seed=run.pick["seed"])}


def see(network: nn.Module, views: Tensor) -> Seen:
    """Look at images through a network in evaluation mode.

    Args:
        network: a timm model.
        views: (Q, 3, size_px, size_px) normalised, on the network's device.

    Raises:
        UserError: it has no map of positions, or no attention that can be read.
    """
    plain, layer = deepest_features(network, views, least_side=LEAST_SIDE)
    fine = stitched(lambda v: deepest_features(network, v, least_side=LEAST_SIDE)[0], views, fine_side=FINE_SIDE)
    if has_class_token(network):
        attention = stitched(lambda v: cls_attention(network, v).mean(1)[..., None], views, fine_side=FINE_SIDE)[..., 0]
    else:
        attention = mean_activation(fine)[:, 0]
    return Seen(fine, attention, layer, tuple(plain.shape[1:3]))


def _draw_features(seen: dict[str, Seen], room: ImageSet, has_token: bool) -> bytes:
    rows, beside = [thumbnails(room.queries, room.size_px)], ["image"]
    for title, found in seen.items():
        rows += [pca_rgb(found.features), heat(found.attention)]
        beside += [f"{title}:\nPCA of features", f"{title}:\n{'attention' if has_token else 'mean activation'}"]
    names = [room.classes[label] for label in room.queries.labels.tolist()]
    return sheet(rows, above=names, beside=beside, cell_px=FEATURES_CELL_PX)


def _draw_neighbours(spaces: dict[str, EmbeddingSpace], room: ImageSet) -> bytes:
    strips = {}
    for title, space in spaces.items():
        flat, k = room.labelled(room.train, space.nearest.flatten()), space.nearest.shape[1]
        strips[title] = [flat[start : start + k] for start in range(0, len(flat), k)]
    return neighbours.draw(room.labelled(room.test, room.shown), strips)


def _draw_maps(name: str, spaces: dict[str, EmbeddingSpace], room: ImageSet) -> bytes:
    maps = {title if title == "raw pixels" else f"{name}, {title}": space.map for title, space in spaces.items()}
    return embedding_map.draw(maps, room.test.labels[room.mapped], room.classes)


def _numbers(space: EmbeddingSpace) -> dict[str, float]:
    return {
        "share_right": space.share_right,
        "map_agreement": space.map.agreement,
        "embedding_agreement": space.map.embedding_agreement,
    }
