"""Published models: records, weights in and out, new heads and sizes."""

from .adapt import reset_head as reset_head, resize as resize
from .architecture import Architecture as Architecture
from .create import create_model as create_model
from .download import fetch as fetch
from .record import Record as Record
from .run_folder import run_config as run_config, run_weights as run_weights
from .weights import load_weights as load_weights, save_weights as save_weights
from .zoo import list_models as list_models, Zoo as Zoo
