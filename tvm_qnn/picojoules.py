"""Energy of single operations: Horowitz (ISSCC 2014), as Q-MANN tables 1 and S1 print it."""

PICOJOULES = {
    "int8 add": 0.03,
    "int32 add": 0.1,
    "int8 multiply": 0.2,
    "int32 multiply": 3.1,
    "fp16 add": 0.4,
    "fp32 add": 0.9,
    "fp16 multiply": 1.1,
    "fp32 multiply": 3.7,
}
"""Energy of an operation in a 45 nm process, in picojoules."""
