"""Where traces come from: one file per format, one for generated shapes.

`pods` holds what they all give, the `Trace`, and what they all raise, the `TraceError`;
`strict_csv` reads CSV so that a fault is named by line; `table` is our own CSV and Parquet;
`shapes` makes traces from a few numbers and a seed.

What others have recorded comes through `importers`, which lists the formats: `audit`, `watch`
(both on `pod_object`), `prometheus`, `container_insights`, `journal`, `openb`, `dlrm`,
`google2019`. `json_text` reads their files record by record, `log_records` unwraps what
CloudWatch wraps, `fields` looks into JSON that nobody vouches for, and `lives` puts together what
is known of each pod, decides what a trace gets, and counts what was guessed and dropped.

What may be here: numpy anywhere; pyarrow inside functions only, so that a type costs no
import; of ours nothing outside this folder, but for the words of `cni.allocator.journal`.
`sim.trace` is the door the rest of `sim` uses.
"""
