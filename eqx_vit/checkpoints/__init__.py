from ._architecture import (
    Architecture as Architecture,
    tiny_models as tiny_models,
)
from ._create import create_model as create_model
from ._fetch import fetch as fetch
from ._record import Record as Record
from ._run_folder import run_config as run_config, run_weights as run_weights
from ._zoo import list_models as list_models, Zoo as Zoo, zoo as zoo
