"""How MLflow stores a model: as its PyTorch flavor does, with answers that say the verdict."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from busi_search.models.served import CARRIED

if TYPE_CHECKING:
    import torch
    from mlflow.models import Model


def save_model(
    pytorch_model: "torch.nn.Module", path: str, mlflow_model: "Model", **options: Any
) -> None:
    """Write a model into a folder; MLflow's ``Model.log`` calls this.

    The program is stored as MLflow's PyTorch flavor stores it. MLflow's ``pyfunc``, and with it
    its server, loads it through :mod:`busi_search.models.served`, whose source goes along under a
    name of its own: models of several versions of busi-search load side by side.

    Args:
        pytorch_model: in evaluation mode.
        path: the folder, not there yet.
        mlflow_model: MLflow's description of the model.
        options: of MLflow's PyTorch flavor.
    """
    import mlflow.pyfunc
    import mlflow.pytorch
    from mlflow.models.model import MLMODEL_FILE_NAME

    mlflow.pytorch.save_model(pytorch_model, path, mlflow_model=mlflow_model, **options)
    own = Path(__file__).parent
    sources = {f"{name}.py": (own / f"{name}.py").read_bytes() for name in CARRIED}
    package = f"busi_search_served_{hashlib.sha256(b''.join(sources.values())).hexdigest()[:12]}"
    target = Path(path) / "code" / package
    target.mkdir(parents=True)
    for file, content in {"__init__.py": b"", **sources}.items():
        (target / file).write_bytes(content)
    stored = mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]
    mlflow.pyfunc.add_to_model(
        mlflow_model,
        loader_module=f"{package}.served",
        code="code",
        conda_env=stored[mlflow.pyfunc.ENV]["conda"],
        python_env=stored[mlflow.pyfunc.ENV]["virtualenv"],
    )
    mlflow_model.save(str(Path(path) / MLMODEL_FILE_NAME))
