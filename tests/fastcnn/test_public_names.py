"""The public names: what the package has promised is there, and nothing but layers is added by a file of layers."""

import fastcnn as fc
from fastcnn import layers

PROMISED = set(
    """
    Abs Adagrad Adam AdamW AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    AdaptiveMaxPool3d Add ArgumentError AvgPool1d AvgPool2d AvgPool3d BackendError BatchNorm1d BatchNorm2d
    BatchNorm3d BinaryCrossEntropy CheckpointError Concat Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d
    ConvTranspose3d CrossEntropy DataError Dropout Dropout1d Dropout2d Dropout3d ELU Elementwise Evaluation
    FastcnnError Flatten GELU Gain GaussianPool2d GlobalAvgPool GlobalMaxPool Graph GroupNorm Hardswish Hinge
    History Identity Input InstanceNorm1d InstanceNorm2d InstanceNorm3d L1 LPPool1d LPPool2d LPPool3d Layer
    LayerNorm LeakyReLU Linear LocalContrastNorm LocalResponseNorm LogSoftmax Loss MaxPool1d MaxPool2d MaxPool3d
    MaxPoolIndices1d MaxPoolIndices2d MaxPoolIndices3d MaxUnpool1d MaxUnpool2d MaxUnpool3d MeanSquaredError
    MultiTask Multiply NLL Node Optimizer Pad PadChannels Permute RMSprop ReLU ReLU6 Reshape SGD SeparableConv1d
    SeparableConv2d SeparableConv3d Sequential ShapeError SiLU Sigmoid SignatureError SmoothL1 SoftAbs Softmax
    Softplus SparseCoding SparseCodingStack Subsample SumSquaredError Tanh Trainer TrainingError Upsample Whitening
    augment conv_matrix data estimate_population_statistics filters fold from_nchw initializers load manual_seed
    models save schedules set_convolution_algorithm to_nchw
    """.split()
)


def test_every_promised_name_is_public():
    assert not PROMISED - set(fc.__all__)
    assert all(hasattr(fc, name) for name in fc.__all__)


def test_no_name_is_listed_twice():
    assert len(fc.__all__) == len(set(fc.__all__))


def test_what_is_new_is_a_layer():
    assert set(fc.__all__) - PROMISED <= set(layers.LAYERS)


def test_every_layer_is_public_and_the_table_holds_those_that_files_can_name():
    public = {name for name in layers.__all__ if name != "LAYERS"}
    assert public <= set(fc.__all__)
    assert public - set(layers.LAYERS) == {"Layer", "Elementwise"}
    assert all(getattr(fc, name).__module__.startswith("fastcnn.layers.") for name in public)
