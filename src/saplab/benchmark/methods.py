"""The published defences of the benchmark: what is random, what is claimed, and how their own papers evaluated them.

Numbers of claims are those that were read at their source. Where a number is known from memory alone, none is given.
"""

from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from saplab.attacks import NormName

_EIGHT: Final = 8 / 255
_NOT_READ: Final = "Its authors' number for CIFAR-10 could not be read at its source, so none stands here."
_RESNET: Final = "The pre-activation ResNet-20 (0.27 million weights) instead of {}."
_SMALL: Final = (
    "Trained by the preset `small`: {}, adversarial images by one step of λ = 10 from a random start, in bfloat16."
)


Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a paper says of its defence.

    Attributes:
        text: in a sentence.
        source: where it was read.
        network: of the paper.
        clean, robust: accuracies in %; None where no number is given, or none was read.
        norm, eps: the ball of `robust`.
        certified: whether `robust` is a certified accuracy.
    """

    text: str
    source: str
    network: str = ""
    clean: Percent | None = None
    robust: Percent | None = None
    norm: NormName = "linf"
    eps: Annotated[float, msgspec.Meta(gt=0)] = _EIGHT
    certified: bool = False


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The evaluation of a defence's own paper or code, to be run beside the protocol's.

    Attributes:
        attack: as text, in one ball of radius `eps`.
        text: what it does, in a sentence.
        void: why it says nothing about robustness; "" where it does, if weakly.
        single_pass: whether one pass judges, instead of the average of all.
        draws: how often it is run, with other draws, where one of them decides.
    """

    attack: str
    text: str
    void: str = ""
    norm: NormName = "linf"
    eps: float = _EIGHT
    single_pass: bool = True
    draws: int = 1


class Method(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A published defence.

    Attributes:
        source: the paper.
        what: what is random, and where.
        claim: of the paper.
        found: what others found against it, as they reported it; "" for nothing known.
        departures: of this implementation.
        published: the paper's own evaluation, where it is known.
    """

    title: str
    source: str
    what: str
    claim: Claim | None = None
    found: str = ""
    departures: tuple[str, ...] = ()
    published: Published | None = None


_SAP: Final = "Dhillon et al. 2018, Stochastic activation pruning for robust adversarial defense (ICLR)"
_DROPOUT: Final = Claim(
    "Put on the dense network: similar to it for small λ at low rates, and falling very quickly for larger λ.",
    f"{_SAP}, section 4.1.2",
    "pre-activation ResNet-20",
)
_WORSE: Final = "Like all of the paper's baselines worse than the dense network for most λ, and never as good as SAP."
_ONE_DRAW: Final = (
    "one draw is fixed during the whole attack, and another one judges: what fools that draw is transferred, and no"
    " attack on the random network was made; the authors' code does so with every attack, AutoAttack among them"
)


def _by_one_draw(what: str) -> "Published":
    attack = "pgd:steps=20,samples=1,relative_step=0.25,redraw=false"
    return Published(attack, f"PGD-20 against one {what}, judged by one pass", _ONE_DRAW, draws=4)


def _baseline(text: str, appendix: str) -> Claim:
    return Claim(f"{text} {_WORSE}", f"{_SAP}, appendix {appendix} and section 4.3", "pre-activation ResNet-20")


def _queries(number: str = "") -> Claim:
    return Claim(f"Weakens {number}attacks by queries; nothing is claimed against gradients.", "the paper's abstract")


OWN: Final = "own"
METHODS: Final[Mapping[str, Method]] = {
    "none": Method("no defence", "the network as trained by this package", "nothing"),
    OWN: Method("a defence of one's own", "sent in", "as its author says"),
    "sap": Method(
        "stochastic activation pruning (SAP)", _SAP,
        "which activations stay: categorical draws by magnitude, with replacement, then rescaled",
        Claim(
            "83.3 % clean, and 72.7 % at λ = 2 under one step along the gradient averaged over 100 passes (the dense"
            " network's 56.4 % and the 16.3 points that SAP adds).",
            f"{_SAP}, sections 4.1, 4.1.1 and 4.5", "pre-activation ResNet-20", 83.3, 72.7, eps=2 / 255,
        ),
        "Athalye et al. 2018 report 0 % for a re-implementation that differs from the paper. Dhillon & Carlini 2020"
        " take that back for SAP as published, and break it by identity backward (BPDA) instead.",
        ("The authors' attack ran with batch-norm in training mode, which makes it weaker: on 1,000 images SAP-100"
         " on `dense` keeps 73.7 % of it at λ = 2, and 69.5 % with batch-norm as in prediction (20 samples).",),
        published=Published(
            "fgsm:samples=100,backward=mask", "one step along the gradient of the mask, averaged over 100 passes",
            eps=2 / 255, single_pass=False,
        ),
    ),
    "dropout": Method(
        "dropout at test", f"{_SAP}, section 4.1.2; as a defence: Wang et al. 2018, Defensive dropout (ICCAD)",
        "which activations stay, by coins", _DROPOUT,
        "Averaged gradients apply; a small study with Carlini & Wagner's attack on Monte Carlo dropout left 8 %.",
    ),
    "rna": Method(
        "random noisy activations", f"{_SAP}, appendix B.5", "Gaussian noise added to every activation",
        _baseline("No robustness: accuracy falls quickly with λ and with the noise.", "B.5"),
    ),
    "rsa": Method(
        "randomly scaled activations", f"{_SAP}, appendix B.6", "a Gaussian factor on every activation",
        _baseline("Similar to the dense network, without additional robustness.", "B.6"),
    ),
    "rnw": Method(
        "random noisy weights", f"{_SAP}, appendix B.1", "Gaussian noise added to every weight",
        _baseline("Very similar to the dense network, without a significant gain in robustness.", "B.1"),
    ),
    "rsw": Method(
        "randomly scaled weights", f"{_SAP}, appendix B.2", "a Gaussian factor on every weight",
        _baseline("Similar to the dense network; no robustness is offered.", "B.2"),
    ),
    "swp": Method(
        "stochastic weight pruning", f"{_SAP}, appendix B.4", "which weights stay, by SAP's law",
        _baseline("Very similar to the dense network; no evident robustness.", "B.4"),
    ),
    "snd": Method(
        "small noise defence (SND)", "Byun, Go & Kim 2022 (CVPR)", "Gaussian noise on the image, σ = 0.01",
        _queries("eight "),
        departures=("The noise is not clipped to [0, 1]; σ is that of others' code.",),
    ),
    "rnd": Method(
        "random noise defence (RND)", "Qin et al. 2021 (NeurIPS)", "Gaussian noise on the image, σ = 0.02", _queries(),
        "The paper itself: averaging works where the noise is small against the attacker's probe.",
        ("The noise is not clipped to [0, 1]; σ was not read at its source.",),
    ),
    "rfd": Method(
        "randomised features (RFD)", "Nguyen et al. 2024 (ICLR)", "Gaussian noise on the maps where a stage ends",
        _queries(), "The paper's own adaptive attacks average several outputs for each query.",
        ("ν = 0.3 after each of the three stages, behind batch-norm and ReLU; the authors choose ν and stages by the"
         " clean accuracy that they cost.",),
    ),
    "resize-pad": Method(
        "random resizing and padding", "Xie et al. 2018 (ICLR)", "size and place of the image on a larger canvas",
        Claim("Second place in the NIPS 2017 contest, on ImageNet.", "the authors' code", "ImageNet"),
        "Athalye et al. 2018: 0 % on ImageNet at 0.031 by gradients averaged over 30 draws.",
        ("Each image has a size and place of its own, there one for a batch.", "No flip, which the contest's code has.",
         "33 or 34 pixels on 35 for images of 32, in proportion to the paper's 310 to 330 on 331."),
    ),
    "crop": Method(
        "random crop and rescaling", "Guo et al. 2018 (ICLR)", "the place of a crop, stretched to the image's size",
        Claim("Counters attacks on ImageNet by averaging 30 crops.", "the paper", "ImageNet"),
        "Athalye et al. 2018: 0 % on ImageNet at an L2 of 0.05 by averaged gradients.",
        ("Crops of 0.9 of the side (29 of 32 pixels); the paper's 90 of 299 leave `dense` 17 % clean.",),
    ),
    "jpeg": Method(
        "JPEG of random quality", "Das et al. 2018, SHIELD", "the quality by which cosine coefficients are rounded",
        departures=("One quality an image, from 20 to 80, there one of four for each block; nothing is rounded to"
                    " bytes; smooth rounding on the way back.",),
    ),
    "rounding": Method(
        "stochastic rounding", "Yoon, Park & Kim 2018", "whether a value is rounded up or down",
        Claim(_NOT_READ, "the paper was not read"),
        departures=("The image is rounded, to 32 levels; there activations are.", "Not trained with it."),
    ),
    "rpi": Method(
        "random precision inference (RPI)", "Fu et al. 2021, Double-Win Quant (ICML)",
        "the number of bits, 4 to 16, of all weights and maps of a pass",
        Claim("Adversarial images transfer poorly between precisions; numbers are in figures only.",
              "the authors' code and its README", "pre-activation ResNet-18"),
        departures=("Maps are rounded between the least and the greatest value of an image's own map; there by a"
                    " running average over training.",),
        published=_by_one_draw("precision that the attacker drew"),
    ),
    "mixture": Method(
        "a mixture of networks", "Pinot et al. 2020, Randomization matters (ICML)", "which network answers a pass",
        Claim("A mixture does better than any single network against a regularised adversary.", "the paper's theorem"),
        "Dbouk & Shanbhag 2022: an attack on its networks one by one (ARC) finds more than ascent on the expected"
        " loss.",
        ("The networks are those of this package, each trained by itself.",),
    ),
    "gaussian": Method(
        "randomised smoothing", "Cohen, Rosenfeld & Kolter 2019 (ICML)", "Gaussian noise on the image",
        departures=(_RESNET.format("ResNet-110"), "Trained for 30 epochs in bfloat16, there 90.",
                    "Fewer passes count a class than the authors' 100,000."),
    ),
    "rse": Method(
        "random self-ensemble (RSE)", "Liu et al. 2018 (ECCV)", "Gaussian noise before every convolution",
        Claim("87.5 % clean, 40 % under PGD.", "as cited by He, Rakin & Fan 2019 (PNI)", "ResNeXt", 87.5, 40.0),
        "Averaged gradients apply.",
        (_RESNET.format("ResNeXt"), "Noise before each convolution, as in the authors' later code; trained for 30"
         " epochs in bfloat16."),
    ),
    "pni": Method(
        "parametric noise injection (PNI)", "He, Rakin & Fan 2019 (CVPR)",
        "Gaussian noise of learnt strength on weights",
        Claim("84.9 % clean, 45.9 % under PGD-7.", "the authors' README", "ResNet-20", 84.9, 45.9),
        "Tested with its noise off it kept 31.5 %, less than adversarial training without noise (as reported).",
        (_RESNET.format("the authors' ResNet-20"), _SMALL.format("24 epochs")),
        Published("pgd:steps=7,samples=1,relative_step=0.32", "PGD-7 with one pass a step, judged by one pass"),
    ),
    "rpf": Method(
        "random projection filters (RPF)", "Dong & Xu 2023 (CVPR)", "three quarters of the first convolution's filters",
        Claim(_NOT_READ, "the paper was not read", "ResNet-18"),
        "A later paper (2024, on distributional adversarial loss) finds the derandomised network more robust.",
        (_RESNET.format("ResNet-18"), "12 of 16 filters, there 48 of 64.", _SMALL.format("24 epochs")),
        _by_one_draw("set of filters that the attacker drew"),
    ),
    "random-norm": Method(
        "random normalisation aggregation (RNA)", "Dong et al. 2022 (NeurIPS)",
        "batch-norm or group-norm, for each of 19 layers", Claim(_NOT_READ, "the paper was not read", "ResNet-18"),
        departures=(_RESNET.format("ResNet-18"), _SMALL.format("24 epochs")),
        published=_by_one_draw("choice of normalisers that the attacker drew"),
    ),
    "lwta": Method(
        "stochastic local winner-takes-all", "Panousis et al. 2021 (BDL)", "the winner of each pair of channels",
        Claim("74.71 % under AutoAttack. The authors' logs: 86.78 % clean and 74.54 % left by its standard version,"
              " which averages no passes; 86.56 % and 76.08 % by its version for random networks, 79.50 % after the"
              " first of that one's two attacks.",
              "the paper's abstract; the authors' logs", "WideResNet-34-1", 86.78, 74.71),
        "Nothing published; AutoAttack's leaderboard does not take random defences.",
        (_RESNET.format("WideResNet-34"), "A temperature of 0.67 in training, there learnt.",
         _SMALL.format("24 epochs")),
        Published(
            "apgd:steps=20,samples=20", "the first attack of AutoAttack's variant for random networks, APGD on"
            " cross-entropy with 20 passes a step, for 20 of its 100 steps, judged by one pass; at the test's"
            " temperature of 0.01 the winners' softmax is saturated, and little gradient passes it",
        ),
    ),
    "wca": Method(
        "weight-covariance alignment (WCA)", "Eustratiadis et al. 2021 (ICML)",
        "correlated noise on the last 32 features",
        Claim(_NOT_READ, "the paper's table was not read", "ResNet-18"), "Nothing published.",
        (_RESNET.format("ResNet-18"), "Stochastic gradient descent, 30 epochs; there Adam, 600.",
         "Noise that begins as the identity; there with factors uniform in [0, 1)."),
        Published(
            "pgd:steps=10,samples=50,relative_step=0.1", "the attack of the authors' test: PGD-10 in steps of a tenth"
            " of ε, its gradient averaged over 50 passes (by a version of Foolbox that was not found), judged by one"
            " pass",
        ),
    ),
    "mc-dropout": Method(
        "Monte Carlo dropout", "Gal & Ghahramani 2016 (ICML); as a defence: Wang et al. 2018 (ICCAD)",
        "which activations stay, by coins, in a network trained with them",
        Claim("Similar to the dense network, without additional robustness.", f"{_SAP}, section 4.1.2",
              "pre-activation ResNet-20"),
        "A small study with Carlini & Wagner's attack left 8 %.",
        ("Trained for 24 epochs in bfloat16.",),
    ),
    "sap-trained": Method(
        "SAP, trained through it", _SAP, "which activations stay: categorical draws by magnitude",
        departures=("The paper defends trained networks; this one was trained through SAP for 10 epochs.",),
    ),
    "bat": Method(
        "boosted adversarial training (BAT)", "Pinot et al. 2020 (ICML)", "which of two networks answers a pass",
        Claim("A gain over a single network under adaptive PGD, on the mixture's expected loss.", "the paper",
              "wide ResNets"),
        "Dbouk & Shanbhag 2022: ARC leaves it below a single adversarially trained network, for five architectures.",
        (
            _RESNET.format("wide ResNets"), "Weights 0.9 and 0.1, as in the code of ARC.",
            "The first network is `fast`, 30 epochs at λ = 8 with one step of 10 from a random start; the second is"
            " trained for 24 epochs on images made against the first, by 3 steps of 4 from a random start.",
        ),
        Published(
            "pgd:steps=20,samples=10,relative_step=0.25", "adaptive PGD: 20 steps of 2/255 on the loss averaged over 10"
            " draws of the network (there on the expected loss itself)", single_pass=False,
        ),
    ),
}  # fmt: skip
