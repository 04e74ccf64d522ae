//! `anchorhold-verify` as people see it: `cmd/*.trycmd`. `TRYCMD=overwrite` writes them anew; read
//! the difference.

#[test]
fn what_the_command_says_is_written_down() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
