# What can stand where, the program itself says.
COMPLETE=fish overlay | source
