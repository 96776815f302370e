# bash reads this when `overlay` is first completed. What can stand where, the program itself says.
source <(COMPLETE=bash overlay)
