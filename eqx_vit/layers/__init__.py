from ._activation import (
    gelu as gelu,
    gelu_tanh as gelu_tanh,
    quick_gelu as quick_gelu,
)
from ._attention import Attention as Attention, CrossAttention as CrossAttention
from ._buffer import Buffer as Buffer
from ._checks import (
    check_at_least as check_at_least,
    check_choice as check_choice,
    check_multiple as check_multiple,
    check_rate as check_rate,
    pair as pair,
)
from ._conv import (
    Conv as Conv,
    DepthwiseConv as DepthwiseConv,
    unfold as unfold,
    windows as windows,
)
from ._feed_forward import FeedForward as FeedForward
from ._linear import Linear as Linear
from ._norm import BatchNorm as BatchNorm, LayerNorm as LayerNorm
from ._patch import PatchEmbedding as PatchEmbedding
from ._precision import softmax as softmax, widen as widen
from ._random import split_key as split_key
from ._residual import LayerScale as LayerScale, StochasticDepth as StochasticDepth
from ._resize import resize_bicubic as resize_bicubic
from ._transformer import (
    Block as Block,
    linear_rates as linear_rates,
    Stack as Stack,
    StatefulStack as StatefulStack,
)
