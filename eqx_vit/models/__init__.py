from .simple_vit import SimpleViT as SimpleViT
from .vit import ViT as ViT
