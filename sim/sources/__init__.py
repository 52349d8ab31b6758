"""Where traces come from: one file per format, one for generated shapes.

`pods` holds what they all give, the `Trace`, and what they all raise, the `TraceError`;
`strict_csv` reads text so that a fault is named by line; `table` is our own CSV and Parquet,
`openb` is Alibaba's; `shapes` makes traces from a few numbers and a seed.

What may be here: numpy anywhere; pyarrow inside functions only, so that a type costs no
import; of ours nothing outside this folder. `sim.trace` is the door the rest of `sim` uses.
"""
