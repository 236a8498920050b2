"""The data sets, each a TFDS builder in a separate folder. None of them needs TensorFlow.

A builder module defines `Builder` (a `tfds.core.GeneratorBasedBuilder`) and `Config` (a dataclass, subclass
of `tfds.core.BuilderConfig`), whose own fields are the options of the data set. A field with the metadata
`{"in_name": False}` says where to read from, not what to make of it: prepared copies do not differ by it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Dataset:
  """What is known of a data set without importing its builder.

  Attributes:
    module: the builder module's dotted path.
    description: one line for `jaxfer list datasets`.
    licence: the terms, and where to ask for the data.
    file_source: True where `--source` may be a file as well as a folder.
    generated: True where the builder draws the data; False where `jaxfer prepare` imports a distribution.
    parts: the data sets that a mixture (`jaxfer.data.mixed`) is composed of when it is loaded; empty for others.
  """

  module: str
  description: str
  licence: str
  file_source: bool = False
  generated: bool = False
  parts: tuple[str, ...] = ()


def _module(name: str) -> str:
  return f"{__name__}.{name}.{name}_dataset_builder"


DATASETS: dict[str, Dataset] = {
  "affectnet": Dataset(
    module=_module("affectnet"),
    description="AffectNet: 287651 pictures from the web with eight expressions, valence and arousal, in three forms",
    licence="research licence signed by a professor or lab manager, no redistribution; mohammadmahoor.com/affectnet",
  ),
  "casia_webface": Dataset(
    module=_module("casia_webface"),
    description="CASIA-WebFace: half a million pictures of 10572 people, in folders or as InsightFace packs it",
    licence="research only, of people who were not asked; the original site is withdrawn",
  ),
  "ckplus": Dataset(
    module=_module("ckplus"),
    description="Extended Cohn-Kanade: 327 labelled onset-to-peak sequences of 118 people, seven emotions",
    licence="signed agreement, no redistribution; ask at pitt.edu/~emotion/ck-spread.htm",
  ),
  "ckplus_stills": Dataset(
    module=_module("ckplus_stills"),
    description="frames of CK+ as stills, the last ones or at equal steps, with or without contempt",
    licence="signed agreement, no redistribution; ask at pitt.edu/~emotion/ck-spread.htm",
  ),
  "fer2013": Dataset(
    module=_module("fer2013"),
    description="FER2013: 35887 grey 48 x 48 pictures from the web, with its own seven labels or the votes of FER+",
    licence="none stated for the pictures (Kaggle): no redistribution; FER+ votes MIT, github.com/microsoft/FERPlus",
  ),
  "image_folder": Dataset(
    module=_module("image_folder"),
    description="your own pictures in folders of classes, <class>/... or <split>/<class>/...",
    licence="whatever holds for your pictures",
  ),
  "imagenet": Dataset(
    module=_module("imagenet"),
    description="ImageNet (ILSVRC 2012): 1.28 million pictures of a thousand classes, from folders or tar archives",
    licence="non-commercial research and teaching, no redistribution; ask at image-net.org",
  ),
  "jaffe": Dataset(
    module=_module("jaffe"),
    description="JAFFE: 213 pictures of ten Japanese women, seven posed emotions, or the strongest of six rated ones",
    licence="non-commercial research, no redistribution; ask at zenodo.org/records/14974867",
  ),
  "kdef": Dataset(
    module=_module("kdef"),
    description="Karolinska Directed Emotional Faces: 70 people, seven emotions, twice, from five angles",
    licence="non-commercial research, no redistribution; ask at kdef.se",
  ),
  "manifest": Dataset(
    module=_module("manifest"),
    description="your own pictures named in a csv: path, label and optionally subject, split, box, landmarks",
    licence="whatever holds for your pictures",
    file_source=True,
  ),
  "msfde": Dataset(
    module=_module("msfde"),
    description="Montreal Set of Facial Displays of Emotion: class folders, or a csv of paths, labels and people",
    licence="on request, no redistribution; ask the laboratory of Ursula Hess, Humboldt-Universitaet zu Berlin",
    file_source=True,
  ),
  "mug": Dataset(
    module=_module("mug"),
    description="MUG: frames of 52 people's sequences with seven emotions, or its manually annotated stills",
    licence="signed agreement, no redistribution; ask at mug.ee.auth.gr/fed",
  ),
  "nagoya": Dataset(
    module=_module("nagoya"),
    description="Nagoya University's expressions of 111 elderly people, nine classes: a csv, or class folders",
    licence="academic research, no redistribution; ask the National Institute of Informatics, nii.ac.jp/dsc/idr",
    file_source=True,
  ),
  "paper000": Dataset(
    module=f"{__name__}.paper000",
    description="paper 000's grey stills with seven classes, of jaffe, ckplus_stills, msfde and kdef as prepared",
    licence="those of its parts",
    parts=("jaffe", "ckplus_stills", "msfde", "kdef"),
  ),
  "paper003": Dataset(
    module=f"{__name__}.paper003",
    description="paper 003's frames of sequences, of mug, ckplus_stills and ravdess as prepared",
    licence="those of its parts",
    parts=("mug", "ckplus_stills", "ravdess"),
  ),
  "raf_db": Dataset(
    module=_module("raf_db"),
    description="RAF-DB: 15339 pictures from the web with seven basic emotions, or 3954 with eleven compound ones",
    licence="non-commercial research, no redistribution; ask by a professor's e-mail at whdeng.cn/RAF/model1.html",
  ),
  "ravdess": Dataset(
    module=_module("ravdess"),
    description="RAVDESS: frames of 2452 clips of 24 actors who speak and sing with eight emotions",
    licence="CC BY-NC-SA 4.0; zenodo.org/records/1188976",
  ),
  "synthetic_faces": Dataset(
    module=_module("synthetic_faces"),
    description="still drawings of parametric faces, seven or nine emotions, any number of people, young or old",
    licence="drawn by jaxfer, free",
    generated=True,
  ),
  "synthetic_objects": Dataset(
    module=_module("synthetic_objects"),
    description="drawn shapes with textures before backgrounds, up to a hundred classes, in ImageNet's stead",
    licence="drawn by jaxfer, free",
    generated=True,
  ),
  "synthetic_sequences": Dataset(
    module=_module("synthetic_sequences"),
    description="sequences of parametric faces from onset to peak, with optical flow, seven emotions",
    licence="drawn by jaxfer, free",
    generated=True,
  ),
  "video_folder": Dataset(
    module=_module("video_folder"),
    description="your own short videos in folders of classes, <class>/*.mp4, each of one expression",
    licence="whatever holds for your videos",
  ),
}
