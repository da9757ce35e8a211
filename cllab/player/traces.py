"""Traces: what an algorithm did, step by step, as plain JSON that the player and the plots draw.

Every trace is a dict {"v": 1, "kind": ..., "title": ..., "alt": ..., "steps": [...]} of strings, lists, None
and numbers rounded to four digits. Every step has a "text": one sentence with its numbers. Indices count
from 0. An optional "ms" is how long a step lasts when it plays, an optional "palette" lists other colours.

herding  points [N][2], owner [N] (class index), names [N], classes [C]; optional plane (True where the
         features are the two drawn coordinates), images [N][64] from 0 to 16, x_label, y_label, query [2],
         ask (False: no query point).
         step: phase "arrive" | "train" | "truncate" | "tie" | "herd" | "ncm" | "test"; class; k; target [2]
         (where the next exemplar should lie); class_mean [2]; distances (squared, to the target, one per point of the
         class, None once chosen); candidates and tied (point indices); chosen; mean [2] and error of what
         is chosen so far; memory {class: point indices in herding order}; capacity K; quota m;
         means {class: [2]} of the memory; optional available (classes whose data are at hand), query [2];
         in "train" loss {row (a point), columns of {class, old, target, output, loss, gradient}, distillation,
         floor, new, mean}, numbers None where they are not told yet; in "test" query is the point to classify.
routing  experts E, k, capacity, overflow, kinds, tokens [N] of {label, kind}; optional choice "expert" where experts
         choose their tokens ("token" without it), formulas {loss: text}, line [M] of {label, kind}, a text.
         step: step, expert [N][k], weight [N][k], kept [N][k], load [E], importance [E], dropped,
         losses {name: number}, accuracy; optional wanted [N][k], the choice before capacity; specialisation in [0, 1];
         bias [E]; line {expert [M][k], kept [M][k], percent [M][E]}, who serves the text and the router's
         probabilities in percent. Where experts choose, a row of expert, weight and kept has 0 to E entries.
run      tasks [T], extent [x0, x1, y0, y1] or None, grid n, samples [[x, y, class]], runs [{name, frames}]
         with frames [{step, task, accuracy [T], R [T][T], cells}]; cells is a string of n*n base-36 digits,
         the predicted class of every cell, row by row from y0; optional classes and class_colours.
         step: step, task. Steps and the frames of every run stand side by side.
memory   labels [N] (class index of every row of a stream), classes [C], memories [{name, slots}], one or two.
         step: n (rows offered so far); went, per memory the slots of the rows offered since the step before,
         -1 for a row that was not stored; slots, per memory the row in every slot, None where there is none.
features owner [N] (class index), role [N] ("test" or "train"), names [N], classes [C], unit (points have length 1),
         capacity K; optional images [N][64] from 0 to 16.
         step: phase "arrive" | "train" | "moved" | "truncate" | "herd" | "answer"; points [N][2]; arrived (classes
         that are shown); memory {class: rows in herding order}; quota m; means {class: [2]} with the features of
         now, before {class: [2]} the same means of an earlier moment; answers {row: class}; facts [[name, value]].
generations  panels [P] of {name, extent [x0, x1, y0, y1] or None for images}, one or two; classes [C]; lines of
         {name, values (one per step), about, colour, dash}, the chart below; x_label, y_label.
         step: x (place on the chart's axis); panels [P] of {points [[x, y, class]], ellipses [[mx, my, xx, xy, yy,
         class]], arrows [[x0, y0, x1, y1, class]], images [[64 hexadecimal digits, asked, answered]]}.
distillation  classes [C]; series [S] (whose answers stand side by side); panels [P] of {name, image (64 hexadecimal
         digits or None), target [C] or None, limit [C] or None}; charts of {y_label, limit [name, value] or None, lines
         [{name, values (one per step), about, colour, dash}]}; x_label; log (whether x has a logarithmic axis).
         step: x; facts [[name, value, about]]; panels [P] of {T, logits [S][C], values [S][C], gradient [C] or None,
         plain [C] or None}: softmax(logits / T), and the student's gradient with T squared and without.
projection  gradient [2], constraints [t][2], margin, ridge; three answers {u [2], dots [t]}: turn with path [t + 1][2],
         agem with reference [2], gem with v [t] (None where nothing was solved) and residuals [4] (v >= margin,
         G u >= 0, (v - margin) (G u) = 0, u - g = G^T v; [] without v). Six digits instead of four.
         step: phase "cone" | "turn" | "agem" | "gem". The arrows can be dragged: the view then computes the answers
         itself, and reports [*g, *rows, number of the report] where the herding trace reports its query point.
columns  tasks [T]; sizes [L + 1] of the layers; laterals "linear" or "adapter", width; brightest (weight of digit z);
         growth, lines {name, about, values (parameters of 1, 2, ... columns)}; cost [T], multiplications per answer.
         step: task k (the column that learns), step within it; own [L], lateral [L - 1], read [L - 1][k] (strengths:
         see `cllab.isolation.column_strengths`); accuracy {with, cut, alone}; finished [k] (accuracies of the older
         columns); moved (largest change of an old answer); maps [L - 1] of {rows, own, read [k]}: weights' sizes as
         base-36 digits, row by row, of the last layer for the classes of the task only.
lowrank  shows "rank" | "merge" | "overlap". Six digits.
         rank: names of a row and a column; delta [out][in]; A [K][in] and B [out][K], of which the first r rows and
         columns give the best change of rank r; sigma [K]; lines of {name, values (one per step), about, colour}.
         step: rank, parameters, error.
         merge: adapters [n] of {name, A [r][in], B [out][r], s, weight}; cells [n][n] with the products B_i A_j
         [out][in]. step: phase "adapters" | "delta" | "average" | "root" | "cat" | "svd"; name; weights [n][n], with
         which the cells add up to the result; cut [out][in] in "svd", what is left of that sum; rank; error and norm
         (None where nothing is merged); cross, the norm of the cells off the diagonal; scores {name: number}.
         overlap: runs of {name, past (A_1 [r_1][in])}; charts of {y_label, lines}; x_label. step: x; runs of {new
         (A_2 [r][in]), O [r_1][r], overlap}.
packing  shows "weights", "layer" or "drift". The first two have tasks [T] and steps of {phase "start" | "train" |
         "rank" | "prune" | "retrain" | "freeze" | "full" | "read", task, w, owner}; owner 0 is free, else the task
         from 1. weights: w [n] and owner [n] as numbers; ranked (indices, largest |w| first) and kept, or None.
         layer: units H, tile [rows, columns] of a unit's weights, largest (|w| of digit z), restore. step: w (sizes as
         base-36 digits) and owner (decimal digits), unit by unit; reads and own, accuracies of the tasks finished so
         far with owners 1 .. t and with owner t alone; moved, by task, the largest change of a weight since its freeze.
         drift: lr; paths of {name, about, before, masked [S], restored [S]}, a frozen weight's values. step: step.
springs  names of the two tasks; extent [x0, x1, y0, y1]; lam; lr; n; marks {old, new, joint} [2]; contours of both
         losses, lists of lines [[x, y], ...]; panels of {name, F [2], product (lr lam max F), paths}, one to four;
         free, the path without springs. A path is {name, theta [t][2], old [t] and new [t] (losses), pull [t][2],
         left (the step from which it stays outside the extent, or None), given_up (its last step where it ended
         early, or None)}. Five digits. step: step. Entry t of a path belongs to step t.
"""

from cllab.player.from_columns import columns_trace
from cllab.player.from_distillation import answers_trace, distillation_trace, following_trace
from cllab.player.from_features import features_trace
from cllab.player.from_generations import generations_trace, image_digits
from cllab.player.from_growing import growing_trace, grown_run_trace
from cllab.player.from_herding import herding_trace
from cllab.player.from_lowrank import lowrank_trace, merging_trace, overlap_trace
from cllab.player.from_memory import memory_trace
from cllab.player.from_packed_run import packed_run_trace
from cllab.player.from_packing import drift_trace, packing_trace
from cllab.player.from_projection import projection_trace
from cllab.player.from_routing import routing_trace
from cllab.player.from_runs import cell_string, grid_points, run_trace
from cllab.player.from_springs import springs_trace
from cllab.player.schema import round_trace, validate_trace

__all__ = [
    "answers_trace",
    "cell_string",
    "columns_trace",
    "distillation_trace",
    "drift_trace",
    "features_trace",
    "following_trace",
    "generations_trace",
    "grid_points",
    "growing_trace",
    "grown_run_trace",
    "herding_trace",
    "image_digits",
    "lowrank_trace",
    "memory_trace",
    "merging_trace",
    "overlap_trace",
    "packed_run_trace",
    "packing_trace",
    "projection_trace",
    "round_trace",
    "routing_trace",
    "run_trace",
    "springs_trace",
    "validate_trace",
]
