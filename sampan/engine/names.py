"""Names of containers: which are valid, and new ones for containers that were given none."""

from __future__ import annotations

import random
import re
from collections.abc import Container as Taken

from sampan.errors import Conflict, InvalidParameter

_VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")


def _words(text: str) -> list[str]:
    return text.split()


ADJECTIVES = _words(
    "able agile amber ample apt arctic ardent ashen azure balmy bold brave breezy bright brisk "
    "calm candid careful cheery chief civil clean clear clever coastal copper cosy cozy crisp "
    "curious daring dawn deep deft dreamy dry dusky eager early earnest easy even exact fabled "
    "fair famous fancy fast fearless fine firm fleet floral fluent fond frank free fresh frosty "
    "gentle gifted glad golden good grand green hale handy happy hardy hazel hearty honest humble "
    "inland ivory jade jolly jovial keen kind large lasting leafy light lilac little lively loyal "
    "lucid lucky lunar mellow merry mighty mild mindful misty modest mossy narrow neat nimble noble "
    "northern novel oaken open opal patient pearly placid plain polar polite prime proper proud "
    "quick quiet rapid rare ready regal rich robust rosy round royal rugged rustic sage salty sandy "
    "scarlet serene sharp shiny silent silver simple sincere sleek smart smooth snowy solar solid "
    "sound southern spry stable starry steady still stout strong sturdy subtle sunny sure swift "
    "tall tame tender thorough tidal tidy timely tranquil true trusty upbeat urban valiant vast "
    "vivid warm wary watchful western whole wide wild wise witty woody worthy young zesty"
)

SURNAMES = _words(
    "abel agnesi airy al-biruni ampere archimedes aristarchus babbage banneker barlow bassi "
    "bayes becquerel bell berners bernoulli bohr boltzmann boole borlaug bose boyle brahe brahmagupta "
    "bunsen cantor cardano carson cauchy cavendish celsius chandrasekhar chatelet church clarke "
    "clausius copernicus coulomb cray crick curie cuvier dalton darwin davy descartes dijkstra dirac "
    "doppler edison ehrlich einstein eratosthenes euclid euler faraday fermat fermi feynman fibonacci "
    "fischer fleming foucault fourier franklin fresnel galilei galois galvani gauss germain gibbs "
    "goddard godel goldberg goodall hamilton harvey heaviside heisenberg helmholtz herschel hertz "
    "hilbert hodgkin hooke hopper hubble humboldt huygens hypatia jacobi jenner joule kepler khayyam "
    "koch kovalevskaya lagrange lamarr laplace lavoisier leakey leavitt leibniz lister lorentz lovelace "
    "mach maxwell mayer mcclintock meitner mendel mendeleev mercator moore morse nash napier newton "
    "nobel noether ohm oppenheimer ostrom pascal pasteur pauli payne perlman planck poincare ptolemy "
    "pythagoras ramanujan rayleigh riemann ritchie rontgen rubin rutherford sagan salk shannon siemens "
    "snell somerville stokes tesla thales thompson torvalds turing volta wallace watt wegener wiles "
    "wing wozniak wright yalow young zhang"
)


def check(name: str) -> str:
    """The name without its leading slash.  Raises InvalidParameter when it is not a valid one."""
    bare = name.removeprefix("/")
    if not _VALID.match(bare):
        raise InvalidParameter(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    return bare


def generate(taken: Taken[str]) -> str:
    """A name that is not taken, ``adjective_surname``; after many collisions with a number."""
    for attempt in range(1000):
        name = f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES).replace('-', '')}"
        if attempt >= 6:
            name += str(random.randrange(10 ** min(6, attempt - 5)))
        if name not in taken:
            return name
    raise Conflict("no free container name could be found: give one with --name")
