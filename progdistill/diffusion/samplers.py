"""Every sampler by its name."""

from progdistill.diffusion.ancestral import ancestral
from progdistill.diffusion.ddim import ddim
from progdistill.diffusion.dpm_solver import dpm_solver
from progdistill.diffusion.names import SamplerName
from progdistill.diffusion.runge_kutta import euler, heun, rk4
from progdistill.diffusion.sampler import Sampler

SAMPLERS: dict[SamplerName, Sampler] = {
    SamplerName.DDIM: ddim,
    SamplerName.ANCESTRAL: ancestral,
    SamplerName.EULER: euler,
    SamplerName.HEUN: heun,
    SamplerName.RK4: rk4,
    SamplerName.DPM_SOLVER: dpm_solver,
}
