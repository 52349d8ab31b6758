"""The plug-in and the daemon: what decides, and what carries it out.

    allocator/    which sandbox holds which address; what to ask of EC2 next      (pure)
    settings.py   an environment -> Settings; picks the one warm target           (pure)
    variables.py  every variable by name: default, type, meaning, who reads it    (pure)
    cloud/        calls, recipes and error codes: from an action to EC2           (pure so far)

Pure modules perform nothing and import nothing that can. Still to come: performing calls with
boto3, the data path, the CNI executable and the daemon. Nothing here knows of `sim`, which
replays pods through these very modules.
"""
