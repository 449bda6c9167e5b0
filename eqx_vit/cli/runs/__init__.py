"""Training runs."""

from ...pretrained import Architecture as Architecture
from ._checkpoints import Checkpoints as Checkpoints
from ._fit import fit as fit, NonFinite as NonFinite, Stop as Stop
from ._load import (
    load_run_or_published as load_run_or_published,
    Loaded as Loaded,
    run_named as run_named,
)
from ._loggers import LOGGERS as LOGGERS
from ._run import as_config as as_config, fingerprints as fingerprints, Run as Run
