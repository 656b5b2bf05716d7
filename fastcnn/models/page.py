"""The page of models, docs/models.md: `python -m fastcnn.models.page > docs/models.md` writes it anew.

>>> next(line for line in lines() if "`nin`" in line)
'| `nin` | 32x32x3 | 966,986 | 222,486,528 | Lin, Chen, Yan 2014, Network in network |'
"""

from collections.abc import Iterator

from fastcnn.models import get, names

# By the name of a model, or of its family: the name without depth and "_bn".
SOURCES = {
    "zipcode1989": "LeCun et al. 1989, Backpropagation applied to handwritten zip code recognition",
    "lenet5": "LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition",
    "lenet": "after LeCun, Bottou, Bengio, Haffner 1998, with more filters",
    "alexnet": "Krizhevsky, Sutskever, Hinton 2012, ImageNet classification with deep convolutional neural networks",
    "nin": "Lin, Chen, Yan 2014, Network in network",
    "vgg": "Simonyan, Zisserman 2015, Very deep convolutional networks for large-scale image recognition",
    "googlenet": "Szegedy et al. 2014, Going deeper with convolutions; batch normalization, Ioffe, Szegedy 2015",
    "resnet": "He, Zhang, Ren, Sun 2015, Deep residual learning for image recognition",
    "densenet121": "Huang, Liu, van der Maaten, Weinberger 2017, Densely connected convolutional networks",
    "squeezenet": "Iandola et al. 2016, SqueezeNet",
    "mobilenet_v1": "Howard et al. 2017, MobileNets",
    "mobilenet_v2": "Sandler et al. 2018, MobileNetV2: inverted residuals and linear bottlenecks",
    "box_detector": "after Sermanet et al. 2014, OverFeat",
    "autoencoder": "Hinton, Salakhutdinov 2006; transposed convolution, Zeiler et al. 2010",
    "unet": "after Ronneberger, Fischer, Brox 2015, U-Net",
}

HEAD = """\
# Models

`fastcnn.models.NAME(classes=..., input_shape=(H, W, C))` builds a network; `fastcnn summary NAME` shows its layers. The
table has the sizes at the default arguments, multiply-adds for one image. More arguments: `alexnet(groups=1)` lets all
channels meet, `squeezenet(version="1.1")`, `mobilenet_v1(width=0.5)` and `mobilenet_v2(width=0.5)` scale the channels.

Images may have any size of which pools and strides leave a pixel: a mean over the image, or to a fixed number of
pixels, stands before the classifier. The first lines of a model's file tell where it departs from its paper.
`box_detector` has two outputs, "class" and "box", for a `MultiTask`; `autoencoder(input_shape, code)` gives back its
image; `unet` gives scores at every pixel.

| model | input | parameters | multiply-adds | source |
| --- | --- | --- | --- | --- |"""


def lines() -> Iterator[str]:
    """Iterate over the lines of the page."""
    yield from HEAD.split("\n")
    for name in names():
        net = get(name)()
        source = SOURCES.get(name) or SOURCES[name.removesuffix("_bn").rstrip("0123456789")]
        size = "x".join(map(str, net.input_shapes[0]))
        multiply_adds = sum(row.multiply_adds for row in net.measures())
        yield f"| `{name}` | {size} | {net.parameter_count:,} | {multiply_adds:,} | {source} |"


if __name__ == "__main__":
    print("\n".join(lines()))
