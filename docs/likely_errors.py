"""The errors that users are most likely to see: the beginning of each message, its usual cause, and what to do."""

from __future__ import annotations

# By area. A message must begin one of the source; values stand in it as on the page of errors.
LIKELY: dict[str, dict[str, tuple[str, str]]] = {
    "Data": {
        "the data folder does not exist": (
            "a typing error, or the command runs in another folder",
            "Check the path: `ftx data check PATH`",
        ),
        "the data folder must contain one folder per class": (
            "all images are in one folder",
            "Make a subfolder for each class, or give a table of labels",
        ),
        "the data folder must contain images": (
            "an empty or wrong folder",
            "Check the path, and the endings of the files",
        ),
        "the data must have at least two classes": (
            "there is only one subfolder with images",
            "Add images of another class, for example `no-defect`",
        ),
        "each class must have at least": (
            "a class has too few different images; copies count once",
            "Add images to this class, or remove the class",
        ),
        "no image can be read": ("damaged files, or files that are not images", "Copy the images again"),
        "UNREADABLE of TOTAL images cannot be read": (
            "an interrupted copy, or a full disk of the camera",
            "Repair or remove the files that `ftx data check` lists",
        ),
        "each class of NAME/ must be in train/ too": (
            "a class folder is misspelled, or has no training images",
            "Rename the folder, or add training images",
        ),
        "each folder next to train/ must be a split": (
            "a folder that is not named as a split, for example `new`",
            "Rename it to `val` or `test`, or move it out",
        ),
        "the data must have a folder train/": ("only `test` or `val` exists", "Move the training images into `train`"),
        "a class folder must contain only images": (
            "a class folder has subfolders",
            "Move the images up, or use `--task hierarchical` for a label tree",
        ),
        "each image of a multiclass data set must have exactly one label": (
            "a table with several labels, or none, for an image",
            "Use `--task multilabel`",
        ),
        "the same image must not have different labels": (
            "copies of one image in two class folders",
            "Keep one copy: `ftx data check PATH` lists them",
        ),
        "all images of a group must be in one split": (
            "pictures of one patient or part are in `train` and in `test`",
            "Move them into one split",
        ),
        "the table must have a column": ("another name of a column", "Name the columns `path` and `labels`"),
        "the columns of the table must be separated by commas": (
            "a spreadsheet saved it with semicolons",
            "Save it as CSV with commas",
        ),
        "the table must be UTF-8 text": ("a spreadsheet saved it in another encoding", "Save it as CSV UTF-8"),
        "a link must not lead out of the data folder": (
            "the folder contains links to files elsewhere",
            "Copy the files, or add `--follow-links` if you trust the folder",
        ),
        "an image of the run has changed since training": (
            "images were edited or replaced after training",
            "Restore the images, or train again",
        ),
        "the folder of the images must exist": (
            "the images were moved after training",
            "Add `--data DIR` with their new folder",
        ),
        "the image cannot be read": ("a damaged or incomplete file", "Save the image again as JPEG or PNG"),
        "the image is too large": ("a scan with more pixels than ftx reads", "Scale the image down"),
    },
    "Training": {
        "the model NAME does not exist": (
            "a typing error, or a model of another library",
            "Find a name: `ftx models WORD`",
        ),
        "the pretrained weights of ARCHITECTURE could not be downloaded": (
            "there is no network",
            "Use the bundled `--model dinov2-small`, or `--weights FILE.safetensors`",
        ),
        "data.image_size must be a multiple of the patch size": (
            "the side is not a multiple of 14 or 16",
            "Use one of the two sizes that the message names",
        ),
        "--preset fast trains only the head": (
            "`--preset fast` together with a method that trains more",
            "Remove `--preset` or `--method`",
        ),
        "--budget must be long enough for one epoch": (
            "many images, or a slow machine",
            "Give more time, or a smaller `--image-size`",
        ),
        "--out must not exist yet": ("a run of this name exists", "Choose another name, or leave out `--out`"),
        "there is not enough memory": (
            "large images, or another program uses the memory",
            "Use a smaller `--batch-size` or `--image-size`",
        ),
        "the disk is full": (
            "features, runs, or other programs fill the disk",
            "Delete files, then run the command again",
        ),
        "this needs the EXTRA extra, which is not installed": (
            "ftx was installed for a device only",
            "Install the extra that the message names",
        ),
        "--device NAME: torch finds no such GPU": (
            "a CPU build of PyTorch, or no driver",
            "Install a CUDA build of PyTorch, or use `--device cpu`",
        ),
        "--resume must name a run whose training was interrupted": (
            "the training has finished, or saved no state",
            "List your runs: `ftx runs`",
        ),
        "the images must be those that the training began with": (
            "images were added or changed before `--resume`",
            "Restore them, or begin again with `--from RUN`",
        ),
        "the recipe must be the one that the training began with": (
            "`recipe.yaml` was edited before `--resume`",
            "Undo the change, or begin a new run",
        ),
        "another process of this training was lost": (
            "one process of `torchrun` ended",
            "Read its error, then use `--resume`",
        ),
        "the recipe must be a file, or a name that": ("a typing error in `--config`", "List the names: `ftx recipes`"),
    },
    "Runs and models": {
        "there must be a finished run in runs/": (
            "the command runs in another folder than the training",
            "Change the folder, or name the run",
        ),
        "the run does not exist": ("a typing error, or another folder", "List your runs: `ftx runs`"),
        "the folder must be a run": ("the path is not a folder that `ftx train` wrote", "List your runs: `ftx runs`"),
        "this run has no ARTIFACT/ yet": ("a step is missing", "Run the command that the message names"),
        "this run has no OpenVINO model yet": ("`ftx export` did not run yet", "Run `ftx export`"),
        "there is nothing to validate": ("`ftx export` did not run yet", "Run `ftx export`, then `ftx validate`"),
        "a file of the run has changed since ftx wrote it": (
            "a file in the run folder was edited, or damaged by a copy",
            "Restore the file, or run the command that the message names",
        ),
        "a file of the exported model has changed since ftx wrote it": (
            "an incomplete copy to the device",
            "Copy the whole folder again",
        ),
        "--precision int8 needs at least 2 different training images": (
            "the training images were moved or deleted",
            "Add `--data DIR` with the training images",
        ),
        "every OpenVINO model of this run failed": (
            "int8 or the CPU changes too many labels",
            "Export in fp32, or in int8 with `--recover`",
        ),
        "ARTIFACT predicts differently from the trained model, and is not kept": (
            "the precision is too coarse for this model",
            "Export in a finer precision",
        ),
    },
    "Prediction, server and updates": {
        "there are no images to predict": ("an empty folder, or a wrong path", "Name images or folders"),
        "--port PORT is used by another program": ("another server runs", "Use `--port 0` for a free port"),
        "the update must be made for this base IR": (
            "the device has another base than the server",
            "Copy the base from the server again",
        ),
        "the update must be newer than the installed one": (
            "an older file was sent again",
            "Send the newest update, or go back with `ftx apply --rollback`",
        ),
        "another ftx is using this folder": ("two commands write to one folder", "Wait until the other command ends"),
    },
}
