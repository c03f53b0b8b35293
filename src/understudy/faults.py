"""Faults of a generator's training that its samples show, in words."""

FAULTS = {
    "collapsed": "its samples look all alike",
    "empty annotation": "none of its samples has an annotation, though real slices do",
    "rare annotation": "less than a quarter as many of its samples have an annotation as real slices do",
}
