from ._activation import (
    gelu as gelu,
    gelu_tanh as gelu_tanh,
    Named as Named,
    picklable as picklable,
    quick_gelu as quick_gelu,
)
from ._array import AnyArray as AnyArray
from ._attention import (
    attend as attend,
    Attention as Attention,
    CrossAttention as CrossAttention,
)
from ._block import Block as Block, BlockSequence as BlockSequence
from ._buffer import Buffer as Buffer
from ._checks import (
    check_at_least as check_at_least,
    check_choice as check_choice,
    check_image as check_image,
    check_multiple as check_multiple,
    check_odd as check_odd,
    hidden_dim as hidden_dim,
    pair as pair,
    per_stage as per_stage,
)
from ._conv import (
    Conv as Conv,
    DepthwiseConv as DepthwiseConv,
    PEG as PEG,
    unfold as unfold,
    windows as windows,
)
from ._cudnn import on_cuda as on_cuda
from ._feed_forward import (
    FeedForward as FeedForward,
    GatedFeedForward as GatedFeedForward,
)
from ._images import takes_an_image as takes_an_image
from ._linear import Linear as Linear
from ._lora import adapted as adapted, LoRALinear as LoRALinear
from ._norm import (
    BatchNorm as BatchNorm,
    BatchNormed as BatchNormed,
    LayerNorm as LayerNorm,
)
from ._patch import PatchEmbedding as PatchEmbedding
from ._precision import softmax as softmax, widen as widen
from ._random import split_key as split_key, stack as stack, uniform as uniform
from ._ranges import (
    check_numbers as check_numbers,
    COUNT as COUNT,
    FROM_ZERO as FROM_ZERO,
    NOT_NEGATIVE as NOT_NEGATIVE,
    POSITIVE as POSITIVE,
    Range as Range,
    RATE as RATE,
    SHARE as SHARE,
)
from ._replaced import replaced as replaced
from ._residual import LayerScale as LayerScale, StochasticDepth as StochasticDepth
from ._resize import resize_bicubic as resize_bicubic
from ._stack import (
    AlternatingStack as AlternatingStack,
    is_stack as is_stack,
    KeptValues as KeptValues,
    linear_rates as linear_rates,
    PRODUCTS as PRODUCTS,
    Stack as Stack,
    stacked as stacked,
    StatefulStack as StatefulStack,
)
from ._state import (
    call_with_state as call_with_state,
    check_state as check_state,
    Stateless as Stateless,
    unwrapped as unwrapped,
)
from ._windows import (
    join_windows as join_windows,
    pad_to_multiple as pad_to_multiple,
    split_windows as split_windows,
)
