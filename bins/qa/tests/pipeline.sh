# The publishing pipeline that sites run against the command line, as they run it: no terminal, standard input closed
# or empty, only `awk`, `tail` and `[`. Wants: the programs' directory in PATH, QVD_CONFIG, $image, $mytag, $targettag.

qa di add path=$image osf_id=1 || exit 10
qa vm stop -f di_tag=head || exit 11
qa vm start -f di_tag=head || exit 12

head_di=$(qa di list -f osf_id=1,tag=$mytag | tail -n +3 | awk "{print \$1}")
[ -z $head_di ] && echo "di with tag $mytag not found" && exit 1
qa di tag di_id=$head_di tag=$targettag expire-soft=now expire-hard=tomorrow
