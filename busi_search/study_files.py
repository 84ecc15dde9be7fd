"""Study files: found by name or path, read, changed by ``--set``, joined with their recipes."""

import tomllib
from pathlib import Path
from typing import Any

from busi_search.errors import InputError
from busi_search.spec import (
    DatasetSection,
    Hyperparameters,
    StudySection,
    StudySpec,
    nearest,
    parse_spec,
    user_path,
)


def bundled_studies() -> Path:
    """Return the folder of the study files that come with the package."""
    package = Path(__file__).resolve().parent
    installed = package / "studies"
    return installed if installed.is_dir() else package.parent / "studies"


def list_bundled() -> list[str]:
    """Return the names of the bundled studies, recipes included as ``recipes/NAME``."""
    root = bundled_studies()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.toml")
    )


def find_study_file(name_or_path: str) -> Path:
    """Return the file of a bundled study name or of a path to a TOML file.

    Raises:
        InputError: neither exists; the sentence names the nearest bundled study.
    """
    path = user_path(name_or_path)
    bundled = user_path(bundled_studies() / f"{name_or_path.removesuffix('.toml')}.toml")
    if bundled.is_file() and not path.is_absolute():
        return bundled
    if path.is_file():
        return path
    hint = nearest(name_or_path, list_bundled()).replace("known keys", "bundled studies")
    raise InputError(f"No study '{name_or_path}': it is neither a bundled name nor a file; {hint}")


def load_spec(name_or_path: str, overrides: tuple[str, ...] = ()) -> tuple[StudySpec, str]:
    """Read and check a study file.

    Args:
        name_or_path: a bundled name such as ``busi`` or the path of a TOML file.
        overrides: ``key=value`` strings, each replacing one value of the file; the key may stand
            alone (``epochs=5``) or with its section (``dataset.num_folds=3``).

    Returns:
        The checked study and the text of the file, verbatim, overrides appended as comments.

    Raises:
        InputError: the file is missing, is not TOML or breaks the schema.
    """
    path = find_study_file(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid TOML file ({error}).") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    for override in overrides:
        _apply_override(raw, override)
        text += f"\n# --set {override}"
    _read_recipes(raw, str(path))
    return parse_spec(raw, origin=str(path)), text


def _read_recipes(raw: dict[str, Any], origin: str) -> None:
    """Put the configurations of the named recipe files before the file's own recipes.

    What the study itself fixes (epochs, weights, image size …) holds for them too.
    """
    section: Any = raw.get("study")
    names = section.get("recipes", []) if isinstance(section, dict) else []
    if not isinstance(names, list) or not names:
        return
    limit = section.get("recipe_epochs")
    fixed = set(raw.get("hyperparameters", {})) | {"image_size_pixels"}
    entries = []
    for name in names:
        path = find_study_file(str(name))
        try:
            recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{origin}: recipe {name} cannot be read ({error}).") from None
        parse_spec(recipe, origin=str(path))
        settings = dict(recipe.get("hyperparameters", {}))
        kept = {key: value for key, value in settings.items() if key not in fixed}
        if isinstance(limit, int):
            own = settings.get("epochs", limit)
            kept["epochs"] = min(limit, own) if isinstance(own, int) else limit
        reported = recipe.get("study", {}).get("reported", "")
        entries.append({"name": path.stem, "reported": reported, **kept})
    own = raw.get("recipe", [])
    raw["recipe"] = [*entries, *own] if isinstance(own, list) else own


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Replace one value in the decoded file; a fixed value takes a searched one's place."""
    key, separator, written = override.partition("=")
    key, written = key.strip(), written.strip()
    if not separator or not key or not written:
        raise InputError(f"--set {override}: expected key=value, for example --set epochs=5.")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written
    section, _, name = key.rpartition(".")
    if not section:
        section = _section_of(name)
    if section == "hyperparameters" and isinstance(value, dict | list):
        section = "space"
    if section not in ("study", "dataset", "hyperparameters", "space", "gate"):
        raise InputError(f"--set {override}: unknown section '{section}' in '{key}'.")
    if section in ("hyperparameters", "space"):
        if name not in Hyperparameters.model_fields:
            known = list(Hyperparameters.model_fields)
            raise InputError(f"--set {override}: unknown key '{name}'; {nearest(name, known)}")
        for other in ("hyperparameters", "space"):
            raw.get(other, {}).pop(name, None)
    raw.setdefault(section, {})[name] = value


def _section_of(name: str) -> str:
    if name in Hyperparameters.model_fields:
        return "hyperparameters"
    for section, model in (("study", StudySection), ("dataset", DatasetSection)):
        if name in model.model_fields:
            return section
    known = [
        *Hyperparameters.model_fields,
        *StudySection.model_fields,
        *DatasetSection.model_fields,
    ]
    raise InputError(f"--set {name}: unknown key; {nearest(name, known)}")
