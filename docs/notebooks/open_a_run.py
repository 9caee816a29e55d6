# %% [markdown]
# # Open a run
#
# Reads the output of a run, plots a ROC curve, compares two runs, and scores a patient. Edit the paths below first.
# Open this file as a notebook in an editor that knows the percent format (VS Code, PyCharm, Jupyter with jupytext), or
# run it with `python`. Nothing is sent anywhere.

# %%
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator

import stic_core

# A run's folder, from a federation or from one seed of a simulation.
RUN = Path("runs/RUN-ID")

# A second run on the same held-out patients.
OTHER_RUN = Path("runs/OTHER-RUN-ID")

# A model's folder, from a run or as kept by a hospital.
MODEL = RUN / "model"

# The backbone's weights file; None if the backbone is `tiny` or is in torchvision's cache.
BACKBONE = None

# What `stic-client --site SITE prepare` wrote; it stays at the hospital.
PREPARED = Path("prepared")

# %% [markdown]
# ## What the run found
#
# Each table is a pandas DataFrame with one row per figure. A figure that a hospital withholds, or that cannot be
# estimated, is NaN, and `reason` says why.

# %%
run = stic_core.load_run(RUN)
print(f"run {run.run_id}: {run.record['status']}, sites {', '.join(run.sites)}")
if run.record["phantom"]:
    print("PHANTOM DATA: synthetic patients; this says nothing about real patients")

figures = run.held_out.query("model == 'federated' and figure in ('accuracy', 'auc', 'auc_macro')")
print(
    figures[["held_out_set", "figure", "class", "n", "value", "lower", "upper", "reason"]].to_string(
        index=False
    )
)

# %% [markdown]
# ## ROC curves
#
# Over all sites' held-out patients, from histograms of scores: no patient's score left a hospital.

# %%
roc_figure, axis = plt.subplots(figsize=(5, 5), layout="constrained")
aucs = run.held_out.query("model == 'federated' and held_out_set == 'pooled' and figure == 'auc'")
points = run.roc.query("model == 'federated' and held_out_set == 'pooled'")
for name, curve in points.groupby("class"):
    auc = aucs.set_index("class").loc[name]
    label = f"{name}: AUC {auc['value']:.3f} ({auc['lower']:.3f} to {auc['upper']:.3f})"
    axis.plot(curve["false_positive_rate"], curve["true_positive_rate"], label=label)
axis.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1)
axis.set(
    xlabel="False positive rate",
    ylabel="True positive rate",
    title="Federated model, each class against the others",
    aspect="equal",
)
axis.legend(loc="lower right", title="95 % intervals")
roc_figure

# %% [markdown]
# ## Training

# %%
training_figure, axis = plt.subplots(figsize=(6, 3.5), layout="constrained")
for site, rows in run.rounds.groupby("site"):
    axis.plot(rows["round"], rows["validation_loss"], label=site)  # a round without a figure is a gap
axis.xaxis.set_major_locator(MaxNLocator(integer=True))
axis.set(xlabel="Round", ylabel="Validation loss")
axis.legend()
training_figure

# %% [markdown]
# ## Is federating worth it?
#
# The federated model against each other model of the run, on the same patients. p values are not corrected for the
# number of tests.

# %%
against = run.comparison.query("held_out_set == 'pooled' and figure == 'accuracy'")
print(against[["other_model", "n", "difference", "lower", "upper", "p", "reason"]].to_string(index=False))

# %% [markdown]
# ## Two runs
#
# The runs must have been evaluated on the same held-out patients; otherwise this stops with an error. Look at the
# intervals: a test would need both models' scores of each patient, and these stay in the hospitals.

# %%
both = stic_core.compare_runs(RUN, OTHER_RUN)
macro = both.query("figure == 'auc_macro' and model == 'federated'")
side_by_side = macro.pivot(index="held_out_set", columns="run", values=["value", "lower", "upper"])
print(side_by_side.round(3).to_string())

# %% [markdown]
# ## A patient's scores
#
# This part needs the patients, so it runs in the hospital. `stic-client --site SITE predict` does the same from images
# and a manifest.

# %%
dataset = stic_core.load_dataset(PREPARED)
model = stic_core.restore_model(stic_core.read_model(MODEL), backbone_weights=BACKBONE)
if dataset.image != model.description.image:
    raise SystemExit(
        f"the dataset was prepared with {dataset.image}, the model needs {model.description.image}"
    )

patient = dataset.indices("test")[:1]  # the first held-out patient
scores = stic_core.predict(model, dataset.images[patient], dataset.clinical[patient])
print(scores.round(3).to_string(index=False))

# %%
patient_figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axis, phase, title in zip(axes, range(3), ("Non-contrast", "Arterial", "Portal venous"), strict=True):
    axis.imshow(dataset.images[patient[0]][..., phase], cmap="gray", vmin=0, vmax=255)
    axis.set(title=title, xticks=[], yticks=[])
patient_figure
