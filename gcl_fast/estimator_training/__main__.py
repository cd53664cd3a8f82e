"""Run the command: python -m gcl_fast.estimator_training --work DIR --out FILE"""

import sys

from gcl_fast.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported
    from gcl_fast.estimator_training.fit import main

    sys.exit(main())
