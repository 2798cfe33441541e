"""The main job of the package: optimizers side by side on real data.

From the data (`_data`) over the model and its one training loop (`_train`), for any
optimizer of the list (`_optimizers`), and the trials that are run in a given time
(`_trials`), to numbers (`_summary`), words (`_words`), a picture (`_picture`) and
files (`_files`); on the screen by `_screen`, as told on the command line (`_options`).
"""

from ._job import main as main
