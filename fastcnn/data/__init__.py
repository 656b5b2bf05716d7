"""Data sets: labelled images, from the package, a local folder or a checked download.

Every loader returns a training and a test part, each a `Dataset` of images (N, H, W, C) in [0, 1]
and labels (N,).

    dataset.py     Dataset, what every loader returns
    digits.py      the packaged UCI digits: no file, no network
    catalog.py     mnist, fashion, cifar10, and `load` by name or folder
    idx.py         the IDX files of MNIST and Fashion-MNIST
    cifar.py       the binary files of CIFAR-10
    images.py      image files, and folders of them with one sub-folder a class
    folders.py     what stands in a folder, without what is hidden
    fetch.py       downloads with checksums
    normalize.py   per-channel mean and standard deviation
"""

from fastcnn.data.catalog import cifar10, fashion, load, mnist, names
from fastcnn.data.dataset import Dataset, remap_labels
from fastcnn.data.digits import digits
from fastcnn.data.normalize import Normalization

__all__ = ["Dataset", "Normalization", "cifar10", "digits", "fashion", "load", "mnist", "names", "remap_labels"]
