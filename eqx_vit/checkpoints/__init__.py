from ._create import create_model as create_model
from ._fetch import fetch as fetch
from ._record import Record as Record
from ._zoo import list_models as list_models, Zoo as Zoo, zoo as zoo
