"""The operators that can be compiled, as data: the front end refuses any other before TVM is imported.

A test holds this equal to the converters' table.
"""

SUPPORTED_OPS: frozenset[str] = frozenset(
    """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh AveragePool BatchNormalization BitShift BitwiseAnd BitwiseNot
    BitwiseOr BitwiseXor Ceil Celu Clip Concat Conv ConvTranspose Cos Cosh DepthToSpace Div Dropout Elu Equal
    Erf Exp Expand Flatten Floor Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
    GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool
    Mean MeanVarianceNormalization Min Mish Mod Mul Neg Not Or PRelu Pow RMSNormalization Reciprocal Relu
    Reshape Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
    Sub Sum Swish Tan Tanh ThresholdedRelu Tile Transpose Unsqueeze Xor
    """.split()
)
