"""Flags of denoising, its checks, and fine-tuning."""

DENOISING_FLAGS = (
    ("denoising_attenuates", "refusal",
     "Denoising attenuates the {quantity}: {slope:.2f} ± {sigma:.2f} of its variation over the scan is left.",
     "Measure it on the raw counts."),
    ("denoising_exaggerates", "refusal",
     "Denoising exaggerates the {quantity}: its variation over the scan becomes {slope:.2f} ± {sigma:.2f} times as "
     "large.",
     "Measure it on the raw counts."),
    ("denoising_keeps_slopes", "info",
     "Denoising keeps the variation over the scan of {quantities}: the slopes differ from 1 by at most "
     "{deviation:.2f}, with a standard error of at most {sigma:.2f}."),
    ("attenuation_unknown", "warning",
     "It is not known whether denoising keeps these quantities: {quantities}. Their slopes (denoised against true "
     "values) are not known to 5 % from {checked} positions.",
     "Measure them on the raw counts. About {positions} positions may determine them: "
     "datacube.prenet.check_denoising(positions={positions}), which takes about {times:.2g} times as long."),
    ("attenuation_undetermined", "warning",
     "This scan does not determine whether denoising keeps these quantities (slope of denoised against true values): "
     "{slopes}. They vary too little, the electrons are too few, or the slope is close to the limit of 5 %.",
     "Measure them on the raw counts."),
    ("denoising_lowers_error", "info",
     "Denoising lowers the squared error of single pixels to {error:#.2g} ± {sigma:.1g} of that of the raw counts."),
    ("denoising_harmful", "refusal",
     "Denoising makes these data worse: the squared error of denoised patterns is {error:#.2g} ± {sigma:.1g} of that "
     "of the raw counts.",
     "Use the raw counts."),
    ("denoising_no_effect", "warning",
     "Denoising makes no significant difference: the squared error of denoised patterns is {error:#.2g} ± {sigma:.1g} "
     "of that of the raw counts.",
     "Use the raw counts."),
    ("rival_better", "warning",
     "The best {method} filter has a lower squared error than denoising: the error of the filter is {error:#.2g} ± "
     "{sigma:.1g} of that of the raw counts."),
    ("shared_noise_flatters", "warning",
     "Neighboring pixels share noise (fine detail has {ratio:.2f} of the variance of independent noise), so the "
     "errors given for all methods that average pixels are lower bounds."),
    ("not_checked", "warning",
     "The {check} cannot be checked on these data, because their noise is not independent counting noise."),
    ("few_electrons", "warning",
     "There are too few electrons to test whether the noise is independent counting noise."),
    ("noise_correlated", "warning",
     "Neighboring pixels share noise (scintillator, interpolation or compression: fine detail has {ratio:.2f} of "
     "the variance of independent noise), so the two halves into which the counts are split are not independent."),
    ("noise_too_small", "warning",
     "The variance of the noise falls to {ratio:.2f} of that of counting noise, for example because of a gamma "
     "correction, rescaling or a filter."),
    ("noise_too_large", "warning",
     "The variance of the noise is {ratio:.2f} times that of the noise model."),
    ("fine_tuned", "info",
     "Fine-tuning helped: in {steps} steps, the deviance of held-out electrons fell by {gain:.3g} ± "
     "{gain_sigma:.2g} per pixel, and the squared error changed by {error:+.3g} ± {error_sigma:.2g} of that of the "
     "raw counts."),
    ("fine_tuning_no_gain", "refusal",
     "Fine-tuning did not help enough: in {steps} steps, the gain in the deviance of held-out electrons was "
     "{gain:.1e} ± {gain_sigma:.1e} per pixel, and the squared error changed by {error:+.1e} ± {error_sigma:.1e} of "
     "that of the raw counts. No weights were written.",
     "Keep the weights that you have."),
    ("fine_tuning_refused", "refusal",
     "Fine-tuning was not tried, because the network would learn the noise of these data. No weights were written."),
)
