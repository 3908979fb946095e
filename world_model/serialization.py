"""Models on disk: a folder with config.json and model.safetensors, each written whole or not at all; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import json
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from world_model.files import replace_when_written

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
UNLEARNED = ("action_meanings", "sampling")  # settings of a Genie that its weights do not depend on
SHIPPED = Path(__file__).parent / "pretrained"

Model = TypeVar("Model", bound=nn.Module)


def save_model(folder: str | Path, model: Any, *, half: bool = False, weights: dict[str, Tensor] | None = None) -> None:
    """Write the weights of `model`, a module, and its `config`, the dataclass it is built from, into `folder`.

    `half` stores floating-point weights in 16 bits; `load_model` makes them float32 again. `weights` are those to write where the model
    itself holds only a part of them (see `gather_weights`).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in (weights or model.state_dict()).items()}
    if half:
        tensors = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    with replace_when_written(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save(tensors))
    _write_config(folder, type(model).__name__, model.config)


def load_model(
    folder: str | Path, model_class: type[Model], config_class: type[Any], *, part_of: tuple[str, str, str] | None = None
) -> Model:
    """The model that `save_model` wrote, on the CPU, in evaluation mode; `folder` may also name one that ships with the package.

    `part_of` (class, setting, attribute) says in which larger model it may also be found: the larger one's class, the setting that
    describes the part, and the attribute that holds it.

    Raises:
        FileNotFoundError: no such folder or shipped model.
        ValueError: a file is damaged, or describes another model than `model_class`.
    """
    folder = find_model(folder, model_class.__name__, *(part_of or ())[:1])
    path, prefix = folder / CONFIG_FILE, ""
    name, values = _read_description(path)
    if part_of is not None and name == part_of[0]:
        prefix = f"{part_of[2]}."
        model = model_class(_build_config(config_class, values.get(part_of[1]), path))
    else:
        model = model_class(_check_config(name, values, model_class, config_class, path))
    try:
        weights = load_file(folder / WEIGHTS_FILE)
        model.load_state_dict({name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS_FILE} does not hold the weights that {CONFIG_FILE} describes: {error}") from error
    return model.eval()


def change_config(folder: str | Path, model_class: type[nn.Module], config_class: type[Any], **changes: Any) -> None:
    """Change settings of a saved model that its weights do not depend on; raises what `load_model` does."""
    folder = find_model(folder)
    config = _check_config(*_read_description(folder / CONFIG_FILE), model_class, config_class, folder / CONFIG_FILE)
    _write_config(folder, model_class.__name__, dataclasses.replace(config, **changes))


def find_model(folder: str | Path, *classes: str) -> Path:
    """The folder of a saved model, given by path or, where there is no such folder of a model, by the name of one that ships with the
    package; FileNotFoundError if there is none, which names those that ship, of these `classes` where some are given."""
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []
    path = Path(folder)
    if str(folder) in shipped and not (path / CONFIG_FILE).is_file():
        path = SHIPPED / folder
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            fitting = [name for name in shipped if not classes or _read_description(SHIPPED / name / CONFIG_FILE)[0] in classes]
            raise FileNotFoundError(
                f"{path} has no {name}: give a folder written by save_pretrained, or a model that ships: {', '.join(fitting) or 'none'}"
            )
    return path


def identify_model(folder: str | Path) -> str:
    """The folder's name and a hash of configuration and weights: names the model that made some labels, or anything else.

    Of a Genie, neither what its latent actions mean, in words, nor how frames are sampled counts: neither is learned.
    """
    folder = find_model(folder)
    name, config = _read_description(folder / CONFIG_FILE)
    for unlearned in UNLEARNED:
        config.pop(unlearned, None)
    digest = sha256(_describe(name, config).encode() + (folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return f"{folder.resolve().name}-{digest[:12]}"


def name_model_class(folder: str | Path) -> str:
    """The class of a saved model; raises what `load_model` does."""
    return _read_description(find_model(folder) / CONFIG_FILE)[0]


def _read_description(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        description = json.loads(path.read_bytes())
        return str(description["model"]), dict(description["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not the configuration of a model: save the model again") from error


def _check_config(name: str, values: dict[str, Any], model_class: type[nn.Module], config_class: type[Any], path: Path) -> Any:
    if name != model_class.__name__:
        raise ValueError(f"{path} describes a {name}, not a {model_class.__name__}: load it with {name}.from_pretrained")
    return _build_config(config_class, values, path)


def _write_config(folder: Path, name: str, config: Any) -> None:
    with replace_when_written(folder / CONFIG_FILE) as temporary:
        temporary.write_text(_describe(name, dataclasses.asdict(config)))


def _describe(name: str, config: dict[str, Any]) -> str:
    return json.dumps({"model": name, "config": config}, indent=2) + "\n"


def _build_config(config_class: type[Any], values: Any, path: Path) -> Any:
    """The dataclass that JSON `values` describe; configurations may stand within one another."""
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: in place of the settings of a {config_class.__name__} it holds {values!r}")
    hints = get_type_hints(config_class)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"{path} has unknown settings {', '.join(unknown)}: it was saved by another version of this library")
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build_config(hints[key], value, path)
        elif isinstance(value, list):
            values[key] = tuple(value)
    try:
        return config_class(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a {config_class.__name__}: {error}") from error
